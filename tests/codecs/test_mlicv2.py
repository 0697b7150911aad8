"""MLIC++ and MLICv2: sizes, causality, and that every variant decodes what it coded."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from szilard.codecs.checkerboard import anchors, only
from szilard.codecs.layers import ResidualBlock, TokenMixing
from szilard.codecs.mlicv2 import MLICv2, MLICv2Config
from szilard.codecs.quantizers import Rounding, Writing
from tests.codecs.conftest import awake, pixels, tiny_codec

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {"hgcp": "off", "reweighting": False, "rope": False},
    "whole": {},
    "three slices": {"M": 24, "slices": 3},
    "one slice": {"slices": 1},
    "token mixing": {"transform": "stm"},
    "two blocks": {"blocks": 2},
    "attention": {"attention": True},
    "no channel context": {"channel": False},
    "no local context": {"local": False},
    "no inter-slice context": {"inter": False},
    "no intra-slice context": {"intra": False},
    "no contexts": {"channel": False, "local": False, "inter": False, "intra": False},
    "no residuals": {"lrp": False},
    "guided anchors": {"hgcp": "anchor+nonanchor"},
    "no rotations": {"rope": False},
    "no reweighting": {"reweighting": False},
    "selected by scale": {"gsc": "scale"},
    "selected by a network": {"gsc": "learned", "gsc_threshold": 0.5},
}


def count(*modules: torch.nn.Module) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def test_mlicpp_has_the_official_number_of_parameters() -> None:
    with torch.device("meta"):
        codec = MLICv2("mlicpp")
    assert count(codec) == 83_501_408
    assert count(codec.g_a) == 4_396_352
    assert count(codec.g_s) == 14_700_172
    assert count(codec.h_a) == 1_881_024
    assert count(codec.h_s) == 16_685_600
    assert count(codec.entropy_bottleneck) == 11_712
    assert count(codec.local_context) == 755_220
    assert count(codec.channel_context) == 5_810_112
    assert count(codec.global_inter_context) == 4_633_344
    assert count(codec.global_intra_context) == 659_232
    assert count(codec.entropy_parameters_anchor) == 3_837_440
    assert count(codec.entropy_parameters_nonanchor) == 4_226_560
    assert count(codec.lrp_anchor) == count(codec.lrp_nonanchor) == 12_952_320


def test_new_blocks_are_the_identity_and_all_of_them_learns() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 8, 6, 6)
    for block in (TokenMixing(8), ResidualBlock(8, 8)):
        assert torch.equal(block(x), x)
        optimizer = torch.optim.Adam(block.parameters(), lr=1e-2)
        for _ in range(2):  # what lies below a layer of zeros learns from the second step on
            optimizer.zero_grad()
            block(x).pow(3).mean().backward()
            optimizer.step()
        assert all(parameter.grad is not None and parameter.grad.any() for parameter in block.parameters())


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_decodes_what_forward_shows(name: str) -> None:
    codec, x = tiny_codec(**VARIANTS[name]), pixels()
    with torch.no_grad():
        found = codec(x)
    coded = codec.compress(x)
    decoded = codec.decompress(coded["strings"], coded["shape"], coded["checks"])["x_hat"]
    assert torch.equal(decoded, found["x_hat"].clamp(0, 1))
    assert coded["strings"][0][0]


class Recording(Rounding):
    """Keeps the parameters of every pass at its places."""

    def __init__(self, y: Tensor) -> None:
        super().__init__(y)
        self.passes: list[Tensor] = []

    def __call__(self, channels: slice, where: Tensor, scales: Tensor, means: Tensor, coded: Tensor | None) -> Tensor:
        self.passes.append(only(torch.cat([scales, means], dim=1), where))
        return super().__call__(channels, where, scales, means, coded)


@pytest.mark.parametrize("name", ["plain", "whole", "guided anchors"])
@pytest.mark.parametrize("half", ["anchors", "others"])
def test_a_pass_depends_on_earlier_passes_alone(name: str, half: str) -> None:
    codec = tiny_codec(M=24, slices=3, **VARIANTS[name])
    with torch.no_grad():
        y = codec.g_a(pixels(1, 64, 128))
        hyper = codec.h_s(codec.entropy_bottleneck.quantize(codec.h_a(y)))
        board = anchors(*y.shape[-2:], y.device)
        changed = y.clone()
        changed[:, 8:16] += 3 * (board if half == "anchors" else ~board)  # of slice 1
        first, second = Recording(y), Recording(changed)
        codec.walk(hyper, first)
        codec.walk(hyper, second)
    same = [torch.equal(one, other) for one, other in zip(first.passes, second.passes, strict=True)]
    assert same == [True, True, True, half == "others", False, False]


def test_later_slices_get_no_gradient_from_earlier_rates() -> None:
    codec = tiny_codec(M=24, slices=3)
    y = codec.g_a(pixels()).detach().requires_grad_()
    hyper = codec.h_s(torch.zeros(1, 8, 1, 1))
    codec.walk(hyper, Rounding(y)).scales[:, 8:16].sum().backward()
    assert y.grad is not None
    assert y.grad[:, :8].any()
    assert not y.grad[:, 16:].any()


OLD = {"matrices": "matrix", "biases": "bias", "factors": "factor"}


def test_state_dicts_of_the_official_mlicpp_are_read() -> None:
    torch.manual_seed(0)
    codec = MLICv2("mlicpp-small").eval()
    awake(codec)
    names = {}
    for key, value in codec.state_dict().items():
        part, dot, rest = key.partition("entropy_bottleneck.")
        kind, _, place = rest.partition(".")
        names[f"module.{part}{dot}_{OLD[kind]}{place}" if kind in OLD else f"module.{key}"] = value
    assert "module.entropy_bottleneck._matrix0" in names
    read = MLICv2.from_state_dict(names)
    assert read.settings == codec.settings
    with torch.no_grad():
        assert torch.equal(read(pixels())["x_hat"], codec(pixels())["x_hat"])


@pytest.mark.parametrize("name", VARIANTS)
def test_sizes_and_parts_are_read_from_weights(name: str) -> None:
    codec = tiny_codec(**VARIANTS[name])
    told = {key: getattr(codec.settings, key) for key in ("gsc", "gsc_threshold", "hidden")}
    read = MLICv2.from_state_dict(codec.state_dict(), **told)
    if name not in ("one slice", "no contexts", "no local context", "no intra-slice context"):  # parts of nothing
        assert read.settings == codec.settings
    assert read.weights_id() == codec.weights_id()


def test_weights_of_something_else_are_refused() -> None:
    with pytest.raises(ValueError, match="these are not weights of MLIC"):
        MLICv2.from_state_dict({"weight": torch.zeros(2)})
    codec = tiny_codec()
    weights = dict(codec.state_dict())
    with pytest.raises(ValueError, match="these are not weights of MLIC"):
        MLICv2.from_state_dict(weights | {"extra.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match="these are not weights of MLIC"):
        MLICv2.from_state_dict(weights | {"h_s.increase.0.weight": torch.zeros(1, 2, 3, 3)})
    with pytest.raises(ValueError, match="as it was first released, in 2023"):
        MLICv2.from_state_dict(weights | {"module.lrp_anchor.0.lrp_transform.6.weight": torch.zeros(1)})


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"M": 30, "slices": 4}, "must be slices="),
        ({"window": 4}, "window=4 odd"),
        ({"transform": "conv"}, "transform must be one of"),
        ({"hgcp": "yes"}, "hgcp must be one of"),
        ({"gsc_threshold": 2}, "between 0 and 1"),
        ({"N": 0}, "N must be at least 1"),
    ],
)
def test_wrong_sizes_are_told(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        MLICv2Config(**wrong)


def test_the_hyperpriors_guide_may_be_yes_or_no() -> None:
    assert MLICv2Config(hgcp=True) == MLICv2Config(hgcp="nonanchor")
    assert MLICv2Config(hgcp=False) == MLICv2Config(hgcp="off")


def selected(bias: float) -> MLICv2:
    """A codec that codes all (a high bias) or nothing, with the weights of `tiny_codec()`."""
    codec = MLICv2(MLICv2Config(**vars(tiny_codec().settings) | {"gsc": "learned"})).eval()
    codec.load_state_dict(tiny_codec().state_dict(), strict=False)
    with torch.no_grad():
        for chooser in codec.selection:
            chooser.out.weight.zero_()
            chooser.out.bias.fill_(bias)
    return codec


def test_coding_all_elements_is_no_selection_byte_for_byte() -> None:
    assert selected(9.0).compress(pixels())["strings"] == tiny_codec().compress(pixels())["strings"]


def test_coding_no_element_decodes_means_and_their_residuals_without_symbols() -> None:
    codec = selected(-9.0)
    coded = codec.compress(pixels())
    assert coded["strings"][0] == [b""]
    plain = tiny_codec()
    with torch.no_grad():
        z_hat = plain.entropy_bottleneck.quantize(plain.h_a(plain.g_a(pixels())))

        class Means(Rounding):
            def __call__(
                self, channels: slice, where: Tensor, scales: Tensor, means: Tensor, coded: Tensor | None
            ) -> Tensor:
                return only(means, where)

        expected = plain._predicted(z_hat, Means(torch.empty(0))).y_hat
    assert torch.equal(codec.decode_latents(coded["strings"], coded["shape"], coded["checks"]), expected)


def test_what_is_not_coded_costs_nothing() -> None:
    with torch.no_grad():
        assert (selected(-9.0)(pixels())["likelihoods"]["y"] == 1).all()


def test_all_is_coded_in_training_so_that_gradients_reach_the_latents() -> None:
    codec = selected(-9.0).train()
    found = codec(pixels())
    assert (found["likelihoods"]["y"] < 1).all()
    assert len(found["selection"]) == 4
    found["likelihoods"]["y"].log().sum().backward()
    gradient = codec.g_a.analysis_transform[-1].weight.grad
    assert gradient is not None
    assert gradient.any()


def test_scales_and_means_without_a_number_are_refused_even_where_nothing_is_coded() -> None:
    codec = tiny_codec()
    wrong = torch.full((1, 8, 4, 4), float("nan"), dtype=torch.float64)
    where, right, nothing = anchors(4, 4, wrong.device), torch.ones_like(wrong), torch.zeros_like(wrong).bool()
    writing = Writing(torch.zeros(1, 16, 4, 4).double(), codec.gaussian_conditional)
    with pytest.raises(ValueError, match="scales that are not finite"):
        writing(slice(0, 8), where, wrong, right, nothing)
    with pytest.raises(ValueError, match="means that are not finite"):
        writing(slice(0, 8), where, right, wrong, nothing)


@pytest.mark.parametrize("learns", [True, False])
def test_rounded_values_do_not_follow_their_means_even_where_y_is_frozen(learns: bool) -> None:
    y = torch.randn(1, 2, 2, 2).requires_grad_(learns)
    means = torch.randn(1, 2, 2, 2, requires_grad=True)
    everywhere = torch.ones(2, 2, dtype=torch.bool)
    found = Rounding(y)(slice(0, 2), everywhere, torch.ones_like(means), means, None)
    assert torch.allclose(found, (y - means).round() + means)
    (gradient,) = torch.autograd.grad(found.sum(), means)
    assert not gradient.any()
