"""SwinV2 attention: windows, shifts and padding are where they should be, and the formula is the paper's."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from szilard.codecs.swin import SwinV2Attention2d


def layer(channels: int = 8, window: int = 4, heads: int | None = 2, seed: int = 0) -> SwinV2Attention2d:
    torch.manual_seed(seed)
    made = SwinV2Attention2d(channels, window, heads).double()
    for block in made.blocks:
        block.log_scale.data = torch.tensor([3.0, 20.0][: block.heads], dtype=torch.float64).log()[:, None, None]
    return made


def picture(height: int, width: int, channels: int = 8, seed: int = 1) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(1, channels, height, width, generator=draw, dtype=torch.float64)


def places(size: int, window: int, shift: int) -> list[tuple[int, int]]:
    """Which stretch of one axis each position is in: its window's number, and on which side of the seam it is."""
    whole = size + -size % window
    return [((place - shift) % whole // window, int(place < shift)) for place in range(size)]


def together(height: int, width: int, window: int, shift: int) -> torch.Tensor:
    """bool [HW, HW]: which pairs of positions may see each other."""
    marks = [(row, column) for row in places(height, window, shift) for column in places(width, window, shift)]
    return torch.tensor([[one == other for other in marks] for one in marks])


def dense(block: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The paper's equations over all pairs of positions, those apart masked; for windows that nothing is padded in."""
    _, channels, height, width = x.shape
    tokens = x[0].flatten(1).T
    q, k, v = block.qkv(tokens).unflatten(-1, (3, block.heads, -1)).permute(1, 2, 0, 3)  # [heads, HW, d]
    cosines = F.cosine_similarity(q[:, :, None], k[:, None], dim=-1)
    rows, columns = torch.arange(height).repeat_interleave(width), torch.arange(width).repeat(height)
    offset = torch.stack([rows[:, None] - rows, columns[:, None] - columns], dim=-1).double()
    bias = 16 * torch.sigmoid(block.bias(offset.sign() * (1 + offset.abs()).log())).permute(2, 0, 1)
    tau = (1 / block.log_scale.exp()).clamp(min=0.01)
    mask = together(height, width, block.window, block.shift)
    weights = (cosines / tau + bias).masked_fill(~mask, float("-inf")).softmax(-1)
    found = block.proj((weights @ v).transpose(0, 1).flatten(1))
    tokens = tokens + block.norm1(found)
    tokens = tokens + block.norm2(block.mlp(tokens))
    return tokens.T.reshape(1, channels, height, width)


@pytest.mark.parametrize("size", [(8, 8), (4, 12), (7, 9), (3, 5), (1, 1), (8, 6)])
@pytest.mark.parametrize("number", [0, 1])
def test_each_block_is_the_papers_formula_over_the_pairs_of_a_window(size: tuple[int, int], number: int) -> None:
    block = layer().blocks[number]
    assert block.shift == (0, 2)[number]
    x = picture(*size)
    with torch.no_grad():
        assert torch.allclose(block(x), dense(block, x), atol=1e-5)  # cosines are in float32


@pytest.mark.parametrize("size", [(8, 8), (7, 10)])
def test_a_shifted_position_never_sees_across_the_seam(size: tuple[int, int]) -> None:
    block = layer().blocks[1]
    x = picture(*size).requires_grad_()
    allowed = together(*size, 4, 2)
    out = block(x)[0].square().sum(0).flatten()
    for place in range(len(out)):
        (gradient,) = torch.autograd.grad(out[place], x, retain_graph=True)
        seen = gradient[0].abs().sum(0).flatten() > 0
        assert torch.equal(seen, allowed[place])
    corner, opposite = 0, len(out) - 1
    assert not allowed[corner, opposite]


@given(st.integers(1, 13), st.integers(1, 13), st.integers(2, 5))
@settings(max_examples=25, deadline=None)
def test_any_size_keeps_its_shape_and_is_finite(height: int, width: int, window: int) -> None:
    with torch.no_grad():
        found = layer(window=window)(picture(height, width))
    assert found.shape == (1, 8, height, width) and bool(torch.isfinite(found).all())


def test_what_is_padded_is_never_seen() -> None:
    """A map whose windows are padded gives what its windows alone give."""
    block = layer().blocks[0]
    x = picture(8, 6)
    with torch.no_grad():
        assert torch.allclose(block(x)[..., 4:], block(x[..., 4:]), atol=1e-6)


def test_pictures_of_a_batch_do_not_mix() -> None:
    attention = layer()
    x = torch.cat([picture(6, 7, seed=1), picture(6, 7, seed=2)])
    with torch.no_grad():
        assert torch.allclose(attention(x)[1:], attention(x[1:]), atol=1e-6)


def test_the_temperature_has_a_floor() -> None:
    block = layer().blocks[0]
    x = picture(4, 4)
    with torch.no_grad():
        block.log_scale.fill_(torch.tensor(100.0).log())
        bound = block(x)
        block.log_scale.fill_(50.0)
        assert torch.allclose(block(x), bound)


def test_norms_stand_behind_attention_and_network() -> None:
    """With silent norms the block is the identity, whatever else is in it."""
    block = layer().blocks[0]
    for norm in (block.norm1, block.norm2):
        torch.nn.init.zeros_(norm.weight)
        torch.nn.init.zeros_(norm.bias)
    x = picture(5, 9)
    assert torch.equal(block(x), x)


def test_half_precision_takes_cosines_in_float32() -> None:
    attention = layer().float()
    x = picture(9, 7).float() * 200  # whose squares a half cannot hold
    with torch.no_grad():
        exact = attention(x)
        half = attention.half()(x.half())
    assert bool(torch.isfinite(half).all())
    assert float((half.float() - exact).abs().mean()) < 0.02 * float(exact.abs().mean())


def test_heads_must_divide_the_channels() -> None:
    with pytest.raises(ValueError, match="heads=3 must divide channels=8"):
        SwinV2Attention2d(8, heads=3)
    with pytest.raises(ValueError, match="window must be at least 2"):
        SwinV2Attention2d(8, window=1)
    assert SwinV2Attention2d(40).blocks[0].heads == 2


def test_mixed_precision_takes_cosines_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    attention, x = layer().float(), picture(9, 7).float()
    seen: set[tuple[torch.dtype, bool]] = set()

    def watched(vectors: torch.Tensor, dim: int) -> torch.Tensor:
        seen.add((vectors.dtype, torch.is_autocast_enabled("cpu")))
        return vectors / vectors.norm(dim=dim, keepdim=True).clamp(min=1e-12)

    monkeypatch.setattr(F, "normalize", watched)
    with torch.no_grad():
        exact = attention(x)
        with torch.autocast("cpu", torch.bfloat16):
            mixed = attention(x)
    assert seen == {(torch.float32, False)}
    assert float((mixed - exact).abs().mean()) < 0.05 * float(exact.abs().mean())


@pytest.mark.parametrize("wrong", [{"channels": 0}, {"channels": 8, "heads": 0}, {"channels": 8, "heads": -1}])
def test_sizes_that_make_no_sense_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be at least 1"):
        SwinV2Attention2d(**wrong)
