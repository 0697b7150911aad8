"""The autoencoders: sizes, codes, traversals, folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import szilard
from szilard.representation.qlae import QLAE, LatentAutoencoder
from szilard.representation.qlae.bottlenecks import BOTTLENECKS, TotalCorrelation
from szilard.representation.qlae.objective import is_decayed

TINY: dict[str, Any] = {"image_size": 16, "num_latents": 4, "architecture": "small", "widths": [6, 8], "dense": [16]}


def made(kind: str = "qlae", **changes: Any) -> LatentAutoencoder:
    torch.manual_seed(0)
    return LatentAutoencoder(kind, **TINY | changes).eval()


def pictures(count: int = 5, channels: int = 3) -> torch.Tensor:
    return torch.rand(count, channels, 16, 16, generator=torch.Generator().manual_seed(1))


def test_the_large_networks_are_the_papers() -> None:
    model = QLAE()
    convolutions = [layer for layer in model.encoder.trunk if isinstance(layer, nn.Conv2d)]
    assert [layer.out_channels for layer in convolutions] == [32] * 3 + [64] * 3 + [128] * 3 + [256] * 3
    assert [layer.kernel_size[0] for layer in convolutions] == [3, 3, 4] * 4
    assert [layer.stride[0] for layer in convolutions] == [1, 1, 2] * 4
    assert [layer.out_features for layer in model.encoder.trunk if isinstance(layer, nn.Linear)] == [256, 256]
    transposed = [block.convolution for block in model.decoder.blocks]
    assert [layer.out_channels for layer in transposed] == [256] * 3 + [128] * 3 + [64] * 3 + [32] * 3
    assert model.decoder.constant.shape == (256, 4, 4) and (model.decoder.constant == 0.1).all()
    assert all(layer.bias is None for layer in [*convolutions, *transposed, model.decoder.last])


def test_the_small_networks_are_the_papers() -> None:
    model = QLAE(architecture="small")
    convolutions = [layer for layer in model.encoder.trunk if isinstance(layer, nn.Conv2d)]
    assert [layer.out_channels for layer in convolutions] == [64, 128, 256, 512]
    assert [layer.out_features for layer in model.encoder.trunk if isinstance(layer, nn.Linear)] == [512]


@pytest.mark.parametrize("kind", BOTTLENECKS)
def test_codes_decode_to_what_the_model_itself_reconstructs(kind: str) -> None:
    model = made(kind)
    logits, code = model(pictures())
    codes = model.encode(pictures(), batch_size=2)
    assert codes.shape == (5, 4) and codes.dtype == (torch.int64 if model.discrete else torch.float32)
    assert torch.equal(codes, code.codes) or torch.allclose(codes, code.codes, atol=1e-5)
    assert torch.allclose(model.decode(codes), logits.sigmoid(), atol=1e-5)
    assert torch.allclose(model.reconstruct(pictures()), logits.sigmoid(), atol=1e-5)


@pytest.mark.parametrize("kind", BOTTLENECKS)
def test_gradients_reach_encoder_and_decoder_through_every_bottleneck(kind: str) -> None:
    model = made(kind).train()
    logits, _ = model(pictures())
    logits.square().sum().backward()
    assert model.encoder.head.weight.grad is not None and model.encoder.head.weight.grad.abs().sum() > 0
    assert model.decoder.constant.grad is not None


def test_bytes_and_numbers_are_the_same_pictures() -> None:
    model, pixels = made(), (pictures() * 255).round().to(torch.uint8)
    assert torch.equal(model.encode(pixels), model.encode(pixels.float() / 255))


def test_a_traversal_has_every_value_of_the_latent_and_changes_nothing_else() -> None:
    model = made(num_values=[3, 5, 4, 2])
    row = model.traverse(pictures()[0], latent=1)
    assert row.shape == (5, 3, 16, 16)
    codes = model.encode(pictures()[:1])
    assert torch.allclose(row[codes[0, 1]], model.decode(codes)[0], atol=1e-6)
    codes[0, 1] = 4
    assert torch.allclose(row[4], model.decode(codes)[0], atol=1e-6)


def test_a_latent_that_is_a_number_is_traversed_along_given_values() -> None:
    model = made("ae")
    assert len(model.traverse(pictures()[0], 2, torch.linspace(-1, 1, 7))) == 7
    with pytest.raises(ValueError, match="name some"):
        model.traverse(pictures()[0], 2)


def test_the_same_generator_draws_the_same_pictures() -> None:
    for kind in ("qlae", "fsq", "vq-vae", "beta-vae"):
        model = made(kind)
        first, second = (model.sample(3, torch.Generator().manual_seed(5)) for _ in range(2))
        assert torch.equal(first, second) and first.shape == (3, 3, 16, 16)
    with pytest.raises(ValueError, match="no prior"):
        made("ae").sample(1)


def test_fsq_takes_evenly_spaced_values_of_minus_one_to_one() -> None:
    bottleneck = made("fsq", num_values=5).bottleneck
    code = bottleneck(torch.tensor([[-9.0, 0.0, 0.5, 9.0]]))
    assert code.codes.tolist() == [[0, 2, 3, 4]]
    assert torch.allclose(code.latent, torch.tensor([[-1.0, 0.0, 0.5, 1.0]]))


def test_vq_vae_takes_the_nearest_vector_of_its_table() -> None:
    bottleneck = made("vq-vae").bottleneck
    features = torch.randn(3, 4 * 64, generator=torch.Generator().manual_seed(0))
    distance = torch.cdist(features.view(12, 64), bottleneck.table.detach())
    assert torch.equal(bottleneck(features).codes.flatten(), distance.argmin(1))


def test_the_divergence_of_a_standard_normal_posterior_is_zero_and_of_a_shifted_one_half_its_square() -> None:
    bottleneck = made("beta-vae").bottleneck
    assert bottleneck(torch.zeros(2, 8)).penalties["divergence"] == 0
    shifted = torch.cat([torch.full((2, 4), 2.0), torch.zeros(2, 4)], 1)
    assert bottleneck(shifted).penalties["divergence"] == pytest.approx(4 * 2.0)


def test_total_correlation_is_larger_where_latents_repeat_each_other() -> None:
    bottleneck = TotalCorrelation(2).eval()
    one, other = torch.randn(2, 256, 1, generator=torch.Generator().manual_seed(0))
    narrow = torch.full((256, 2), -2.0)
    apart, alike = (
        float(bottleneck(torch.cat([one, second, narrow], 1)).penalties["total_correlation"]) for second in (other, one)
    )
    assert alike > apart + 0.3


def test_only_weights_are_decayed_norm_scales_and_the_constant_included() -> None:
    names = {name for name, _ in made().named_parameters()}
    decayed = {name for name in names if is_decayed(name)}
    assert {"decoder.constant", "encoder.trunk.1.weight", "encoder.head.weight"} <= decayed
    assert not any("bias" in name or "codebook" in name for name in decayed)
    assert not is_decayed("model.bottleneck.table")


def test_a_folder_gives_the_model_back_with_its_record(tmp_path: Path) -> None:
    model = QLAE(**TINY, num_values=[3, 4, 5, 6]).eval()
    torch.nn.init.normal_(model.quantizer.codebook)
    model.note({"data": "noise", "metrics": {"psnr": 12.345}})
    model.save_pretrained(tmp_path)
    again = szilard.QLAE.from_pretrained(str(tmp_path))
    assert torch.equal(again.encode(pictures()), model.encode(pictures()))
    assert torch.equal(again.decode(again.encode(pictures())), model.reconstruct(pictures()))
    assert again.record["metrics"] == {"psnr": 12.345}
    card = (tmp_path / "README.md").read_text()
    assert "noise" in card and "12.345" in card and "QLAE.from_pretrained" in card
    again.save_pretrained(tmp_path / "copy")
    assert "12.345" in (tmp_path / "copy" / "README.md").read_text()
    assert not list(tmp_path.glob(".new-*"))


def test_a_baselines_folder_is_no_qlae(tmp_path: Path) -> None:
    made("fsq").save_pretrained(tmp_path)
    assert LatentAutoencoder.from_pretrained(str(tmp_path)).kind == "fsq"
    with pytest.raises(ValueError, match="'fsq'"):
        QLAE.from_pretrained(str(tmp_path))
    QLAE(**TINY).save_pretrained(tmp_path)
    assert LatentAutoencoder.from_pretrained(str(tmp_path)).kind == "qlae"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"bottleneck": "vae"}, "bottleneck must be one of"),
        ({"architecture": "huge"}, "architecture must be one of"),
        ({"image_size": 18}, "multiple of that power of two"),
        ({"widths": [8, 8, 8, 8]}, "fewer widths"),
        ({"widths": []}, "widths must list"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        LatentAutoencoder(**TINY | changes)


def test_what_is_no_tensor_of_codes_pictures_or_values_is_refused() -> None:
    model, numbers = made(), made("ae")
    for call in (
        lambda: model.encode(pictures().numpy()),
        lambda: model.traverse(pictures()[0].numpy(), 1),
        lambda: model.decode([[0]]),
        lambda: model.bottleneck.quantizer.decode([0]),  # type: ignore[union-attr, operator]
        lambda: model.bottleneck.quantizer([0.0]),  # type: ignore[union-attr, operator]
        lambda: made(widths=16),
    ):
        with pytest.raises(TypeError, match="must be a"):
            call()  # type: ignore[no-untyped-call]
    for values in (torch.tensor([0.7]), torch.zeros(2, 2).long(), torch.zeros(0).long(), [0, 1]):
        with pytest.raises(ValueError, match="values"):
            model.traverse(pictures()[0], 1, values)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="finite"):
        numbers.decode(torch.full((1, 4), torch.nan))
    with pytest.raises(ValueError, match="finite"):
        model.bottleneck.quantizer(torch.full((1, 4), torch.nan))  # type: ignore[union-attr, operator]
    with pytest.raises(ValueError, match="batch must be"):
        made("beta-vae").sample(0)
    assert numbers.decode(torch.zeros(2, 4).double()).dtype == torch.float32
    torch.nn.init.constant_(model.encoder.head.weight, torch.nan)
    with pytest.raises(ValueError, match="damaged"):
        model.encode(pictures())


def test_pictures_that_do_not_fit_are_refused() -> None:
    model = made()
    with pytest.raises(ValueError, match=r"\[N, 3, 16, 16\]"):
        model.encode(pictures(channels=1))
    with pytest.raises(ValueError, match="numbers from 0 to 1"):
        model.encode(pictures() * 2)
    with pytest.raises(ValueError, match="numbers from 0 to 1"):
        model.encode(pictures() * torch.nan)
    with pytest.raises(ValueError, match="codes must be"):
        model.decode(torch.zeros(4, dtype=torch.int64))
