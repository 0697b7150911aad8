"""The autoencoder: where it starts, what decides what, what stays frozen, what is kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from szilard.representation.lv_rae.backbone import VisionBackbone, open_backbone
from szilard.representation.lv_rae.config import LVRAEConfig, LVRAERun
from szilard.representation.lv_rae.model import LVRAE
from szilard.representation.lv_rae.networks import ResidualEncoder
from szilard.representation.lv_rae.noise import drawn_noise
from szilard.representation.lv_rae.patches import patchify, unpatchify
from tests.representation.lv_rae.tiny import CONFIG, autoencoder, awake, pictures, vision_model

KINDS = ("vit", "dinov2", "dinov2_with_registers", "dinov3", "siglip")


@pytest.mark.parametrize("kind", KINDS)
def test_a_fresh_latent_is_the_vision_models_own_output(kind: str) -> None:
    model, x = autoencoder(kind), pictures()
    reference = model.backbone.model(model.backbone.view(x, (4, 4))).last_hidden_state[:, -16:]
    torch.testing.assert_close(model.encode(x), reference, atol=1e-6, rtol=0)
    torch.testing.assert_close(model.semantic(x), reference, atol=1e-6, rtol=0)
    assert float(model.residual(x).abs().max()) == 0
    assert float(model.training_losses(x)["align"].detach()) < 1e-10


@pytest.mark.parametrize("kind", KINDS)
def test_any_size_of_whole_patches_is_encoded_and_comes_back(kind: str) -> None:
    model, x = awake(autoencoder(kind)), pictures(2, 8, 24)
    assert model.encode(x).shape == (2, 12, 16)
    assert model.encode(x, as_map=True).shape == (2, 16, 2, 6)
    torch.testing.assert_close(model.reconstruct(x), model.decode(model.encode(x, as_map=True)))
    assert model.reconstruct(x).shape == x.shape


def test_a_patch_of_another_size_is_seen_through_a_resized_picture() -> None:
    model = LVRAE(CONFIG, vision_model("dinov2", patch_size=7, image_size=28))
    assert model.backbone.view(pictures(), (4, 4)).shape == (3, 3, 28, 28)
    assert model.encode(pictures()).shape == (3, 16, 16)


def test_a_model_of_one_channel_sees_no_colour_and_no_brightness() -> None:
    backbone = VisionBackbone(vision_model(num_channels=1))
    grey = pictures().mean(1, keepdim=True).expand(-1, 3, -1, -1)
    tinted = grey.clone()
    tinted[:, 0] += 0.2 * 0.587 / 0.299  # more red, less green: the same luminance
    tinted[:, 1] -= 0.2
    reference = backbone(grey, (4, 4))
    torch.testing.assert_close(backbone(tinted, (4, 4)), reference, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(backbone(grey * 0.5 + 0.1, (4, 4)), reference, atol=1e-4, rtol=1e-4)


def test_the_encoder_sees_both_streams_and_gives_one() -> None:
    encoder = ResidualEncoder(16, 16, 2, 2, 4)
    torch.nn.init.normal_(encoder.out.weight)
    seen = []
    encoder.blocks[0].register_forward_hook(lambda _, given, out: seen.append((given[0].shape, out.shape)))
    u = torch.randn(3, 16, 16)
    assert encoder(pictures(), u, (4, 4)).shape == (3, 16, 16)
    assert seen == [((3, 32, 16), (3, 32, 16))]


def test_the_order_of_the_batch_is_the_order_of_the_latents() -> None:
    model, x = awake(autoencoder()), pictures(4)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(model.encode(x[order]), model.encode(x)[order], atol=1e-5, rtol=1e-5)


def test_tokens_know_their_place() -> None:
    model, x = awake(autoencoder()), pictures(1)
    assert not torch.allclose(model.encode(x.flip(-1)).unflatten(1, (4, 4)).flip(2).flatten(1, 2), model.encode(x))


def test_decoding_without_noise_is_deterministic_and_with_noise_by_its_generator() -> None:
    model, x = awake(autoencoder()), pictures()
    z = model.encode(x)
    assert torch.equal(model.decode(z), model.decode(z, smoothing_noise=0.0))
    model.train()
    assert torch.equal(model.reconstruct(x), model.decode(z))  # training mode adds no noise
    noisy = [model.decode(z, smoothing_noise=0.3, generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(noisy[0], noisy[1])
    assert not torch.equal(noisy[0], noisy[2])
    assert float(noisy[0].min()) >= 0 and float(noisy[0].max()) <= 1


def test_the_vision_model_never_learns_and_never_leaves_evaluation() -> None:
    model = autoencoder("dinov2").train()  # with dropped paths
    assert all(not part.training for part in model.backbone.modules())
    assert not any(weight.requires_grad for weight in model.backbone.parameters())
    assert torch.equal(model.semantic(pictures()), model.semantic(pictures()))
    awake(model).training_losses(pictures())["total"].backward()
    assert all(weight.grad is None for weight in model.backbone.parameters())
    assert all(weight.grad is not None for weight in model.decoder.parameters())
    assert model.norm.weight.grad is not None


def test_only_the_last_layer_of_a_fresh_encoder_gets_gradients_first() -> None:
    model = autoencoder()
    model.training_losses(pictures())["total"].backward()
    assert float(model.encoder.out.weight.grad.abs().max()) > 0
    assert float(model.encoder.stem.weight.grad.abs().max()) == 0


def test_stage_two_gives_the_encoder_no_gradients() -> None:
    model = awake(autoencoder())
    losses = model.training_losses(pictures(), stage=2)
    losses["total"].backward()
    assert all(weight.grad is None for weight in model.encoder.parameters())
    assert model.norm.weight.grad is None
    assert float(losses["align"]) == 0


def test_the_align_target_may_be_the_features_before_the_norm() -> None:
    raw = autoencoder(align_target="raw")
    assert float(raw.training_losses(pictures())["align"].detach()) > 0.01


def test_rae_is_the_norm_without_its_affine_part() -> None:
    model, x = autoencoder(residual=False), pictures()
    u = model.backbone(x, (4, 4))
    torch.testing.assert_close(model.encode(x), torch.nn.functional.layer_norm(u, (16,), eps=model.norm.eps))
    assert float(model.residual(x).abs().max()) == 0
    assert not list(model.norm.parameters())


def test_a_tuned_copy_starts_where_the_frozen_one_is_and_learns_alone() -> None:
    model, x = autoencoder(residual=False, tune_vfm=True), pictures()
    torch.testing.assert_close(model.encode(x), model.semantic(x), atol=1e-6, rtol=0)
    model.training_losses(x)["total"].backward()
    assert any(weight.grad is not None for weight in model.tuned.parameters())
    assert all(weight.grad is None for weight in model.backbone.parameters())


def test_a_latent_of_a_tuned_copy_does_not_depend_on_the_mode() -> None:
    model, x = autoencoder("dinov2", residual=False, tune_vfm=True), pictures()  # with dropped paths
    assert torch.equal(model.eval().encode(x), model.train().encode(x))
    assert model.tuned.training


def test_asking_all_to_learn_leaves_the_vision_model_frozen() -> None:
    model = autoencoder(residual=False, tune_vfm=True).requires_grad_(False).requires_grad_(True)
    assert not any(weight.requires_grad for weight in model.backbone.parameters())
    assert model.decoder.out.weight.requires_grad and not model.tuned.norm.weight.requires_grad


def test_types_may_differ_and_the_models_is_taken() -> None:
    model, x = awake(autoencoder()), pictures()
    for other in (torch.float64, torch.float16):
        torch.testing.assert_close(model.encode(x.to(other)), model.encode(x), atol=0.02, rtol=0.02)
    z = model.encode(x)
    torch.testing.assert_close(model.decode(z.double()), model.decode(z))
    half = LVRAE(CONFIG, vision_model().to(torch.bfloat16))  # a frozen model in half precision under one that learns
    assert half.encode(x).dtype == torch.float32
    half.training_losses(x)["total"].backward()


def test_a_norm_without_an_affine_part_is_taken(tmp_path: Path) -> None:
    vision = vision_model()
    vision.layernorm = torch.nn.LayerNorm(16, elementwise_affine=False)
    model, x = LVRAE(CONFIG, vision).eval(), pictures()
    torch.testing.assert_close(model.encode(x), model.semantic(x))
    model.save_pretrained(tmp_path)
    assert torch.equal(LVRAE.from_pretrained(tmp_path, vfm=vision).encode(x), model.encode(x))


def test_a_folder_knows_how_pictures_are_normalised(tmp_path: Path) -> None:
    shown = VisionBackbone(vision_model(), image_mean=(0.5, 0.5, 0.5), image_std=(0.5, 0.5, 0.5))
    model, x = LVRAE(CONFIG, shown).eval(), pictures()
    model.save_pretrained(tmp_path)
    assert torch.equal(LVRAE.from_pretrained(tmp_path, vfm=vision_model()).encode(x), model.encode(x))


@settings(max_examples=25, deadline=None)
@given(patch=st.integers(1, 4), height=st.integers(1, 4), width=st.integers(1, 4), channels=st.sampled_from((1, 3)))
def test_unpatchify_undoes_patchify(patch: int, height: int, width: int, channels: int) -> None:
    x = torch.rand(2, channels, height * patch, width * patch)
    tokens = patchify(x, patch)
    assert tokens.shape == (2, height * width, patch * patch * channels)
    assert torch.equal(unpatchify(tokens, patch, (height, width)), x)


def test_sigma_is_one_number_per_picture() -> None:
    z = torch.zeros(400, 8, 64)
    for kind, mean in (("uniform", 0.1), ("half_normal", 0.2 * (2 / torch.pi) ** 0.5), ("fixed", 0.2)):
        noise = drawn_noise(z, 0.2, kind, torch.Generator().manual_seed(0))
        by_picture = noise.flatten(1).std(1)
        assert float(by_picture.mean()) == pytest.approx(mean, rel=0.08)
        inside = noise.std(2) / by_picture[:, None]  # every token of a picture has the picture's sigma
        assert float((inside - 1).abs().mean()) < 0.1
    assert float(by_picture.std()) < 0.01  # fixed
    assert float(drawn_noise(z, 0.2, "none").abs().max()) == 0


def test_a_folder_gives_back_the_model_and_holds_no_vision_model(tmp_path: Path) -> None:
    model, x = awake(autoencoder()), pictures()
    model.save_pretrained(tmp_path)
    kept = load_file(tmp_path / "model.safetensors")
    assert kept and not any(name.startswith("backbone") for name in kept)
    back = LVRAE.from_pretrained(tmp_path, vfm=vision_model())
    assert torch.equal(back.encode(x), model.encode(x)) and torch.equal(back.reconstruct(x), model.reconstruct(x))
    assert back.config == model.config
    assert "not in here" in (tmp_path / "README.md").read_text(encoding="utf-8")


def test_a_vision_model_is_read_from_its_folder(tmp_path: Path) -> None:
    vision_model().save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25]}), encoding="utf-8"
    )
    found = open_backbone(str(tmp_path))
    assert found.mean.flatten().tolist() == [0.5, 0.5, 0.5] and found.std.flatten().tolist() == [0.25] * 3
    assert found.fingerprint() == VisionBackbone(vision_model()).fingerprint()


def test_another_vision_model_is_refused(tmp_path: Path) -> None:
    autoencoder().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="another vision model"):
        LVRAE.from_pretrained(tmp_path, vfm=vision_model("siglip"))
    with pytest.raises(ValueError, match="holds no LV-RAE"):
        LVRAE.from_pretrained(tmp_path / "..", vfm=vision_model())
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ValueError, match="cannot be read"):
        LVRAE.from_pretrained(tmp_path, vfm=vision_model())


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (torch.rand(1, 3, 15, 16), "multiples of the patch of 4"),
        (torch.rand(1, 1, 16, 16), r"\[B, 3, H, W\]"),
        (torch.rand(0, 3, 16, 16), r"\[B, 3, H, W\]"),
        (255 * torch.rand(1, 3, 16, 16), "from 0 to 1, not from"),
        (torch.full((1, 3, 16, 16), torch.nan), "from 0 to 1, not from nan"),
    ],
)
def test_bad_pictures_are_refused(given: torch.Tensor, sentence: str) -> None:
    model = autoencoder()
    for door in (model.encode, model.semantic, model.residual, model.reconstruct):
        with pytest.raises(ValueError, match=sentence):
            door(given)


def test_bad_arguments_are_refused() -> None:
    model = autoencoder()
    with pytest.raises(TypeError, match="numbers from 0 to 1"):
        model.encode(torch.zeros(1, 3, 16, 16, dtype=torch.uint8))
    with pytest.raises(ValueError, match="a latent must be"):
        model.decode(torch.zeros(1, 16, 5))
    with pytest.raises(ValueError, match="give grid"):
        model.decode(torch.zeros(1, 12, 16))
    for wrong in ((4,), (-4, -4)):
        with pytest.raises(ValueError, match="grid"):
            model.decode(torch.zeros(1, 16, 16), grid=wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="grid"):
        model.decode(torch.zeros(1, 16, 16), grid=(4.0, 4.0))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="a latent must be"):
        model.decode(torch.zeros(1, 16, 0, 4))
    with pytest.raises(ValueError, match="smoothing_noise"):
        model.decode(torch.zeros(1, 16, 16), smoothing_noise=-0.1)
    with pytest.raises(ValueError, match="stage must be 1 or 2"):
        model.training_losses(pictures(), stage=3)
    with pytest.raises(ValueError, match="4 x heads"):
        LVRAEConfig(hidden=20, heads=3)
    with pytest.raises(ValueError, match="residual=False"):
        LVRAEConfig(tune_vfm=True)
    with pytest.raises(ValueError, match="'uniform'"):
        LVRAEConfig(noise="gauss")
    with pytest.raises(ValueError, match="multiple of patch"):
        LVRAERun(image_size=30)
    with pytest.raises(ValueError, match="final LayerNorm"):
        VisionBackbone(torch.nn.Linear(2, 2))
    with pytest.raises(TypeError, match="must be an nn"):
        open_backbone(3)
    with pytest.raises(ValueError, match="no vision model"):
        open_backbone("/no/such/folder")
