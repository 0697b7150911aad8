"""The references of a slice: what they see, and what they do not."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from szilard.codecs.checkerboard import anchors, only, squeezed, unsqueezed
from szilard.codecs.contexts import (
    ChannelReweighting,
    InterSliceContext,
    IntraSliceContext,
    LocalContext,
    RotaryPositions,
    linear_attention,
)

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def test_anchors_have_an_odd_sum_of_row_and_column() -> None:
    assert anchors(2, 4, CPU).int().tolist() == [[0, 1, 0, 1], [1, 0, 1, 0]]


def test_anchors_keep_the_odd_columns_of_even_rows() -> None:
    x = torch.arange(8.0).reshape(1, 1, 2, 4)
    where = anchors(2, 4, CPU)
    assert squeezed(x, where).flatten().tolist() == [1, 3, 4, 6]
    assert squeezed(x, ~where).flatten().tolist() == [0, 2, 5, 7]


@pytest.mark.parametrize("half", [True, False])
def test_unsqueezing_is_the_inverse_with_zeros_elsewhere(half: bool) -> None:
    x, where = torch.randn(2, 3, 4, 6), anchors(4, 6, CPU) == half
    assert torch.equal(unsqueezed(squeezed(x, where), where), only(x, where))


def test_linear_attention_multiplies_from_the_right_end_first() -> None:
    q, k, v = (torch.randn(1, 2, 3, 5, dtype=torch.float64) for _ in range(3))
    quadratic = v @ (k.transpose(-2, -1) @ q)  # [d, L] [L, d] [d, L]
    assert torch.allclose(linear_attention(q, k, v), quadratic)


def test_softmaxes_of_linear_attention_are_over_positions_and_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr("szilard.codecs.contexts.linear_attention", lambda q, k, v: seen.append((q, k)) or v)
    context = InterSliceContext(16, 8, heads=2)
    for name in ("queries", "keys", "values"):
        setattr(context, name, nn.Identity())
    context(torch.randn(2, 16, 4, 6))
    ((queries, keys),) = seen
    assert torch.allclose(queries.sum(-2), torch.ones(()))  # columns of Q~
    assert torch.allclose(keys.sum(-1), torch.ones(()))  # rows of K~


def test_softmaxes_of_one_half_of_a_slice_are_over_its_positions_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr("szilard.codecs.contexts.linear_attention", lambda q, k, v: seen.append((q, k)) or v)
    context = IntraSliceContext(8)
    for name in ("queries", "keys", "values"):
        setattr(context, name, nn.Identity())
    where = anchors(4, 6, CPU)
    context.attended(torch.randn(2, 8, 4, 6), only(torch.randn(2, 8, 4, 6), where), where)
    ((queries, keys),) = seen
    assert queries.shape == keys.shape == (2, 2, 4, 12)
    assert torch.allclose(queries.sum(-2), torch.ones(()))
    assert torch.allclose(keys.sum(-1), torch.ones(()))


def test_intra_slice_attention_is_zero_at_anchors_before_its_convolution() -> None:
    where = anchors(4, 6, CPU)
    known = only(torch.randn(2, 8, 4, 6), where)
    for rope in (False, True):
        found = IntraSliceContext(8, rope=rope).attended(torch.randn(2, 8, 4, 6), known, where)
        assert not found[..., where].any()
        assert found[..., ~where].all()


def test_rotations_keep_norms() -> None:
    x = torch.randn(2, 3, 8, 30)
    assert torch.allclose(RotaryPositions()(x, 5, 6).norm(dim=-2), x.norm(dim=-2), atol=1e-5)


def test_products_of_rotated_vectors_depend_on_the_distance_alone() -> None:
    rope = RotaryPositions()
    with torch.no_grad():
        rope.log_theta.copy_(torch.tensor([1.0, 2.5]))
    q, k = (torch.randn(8, 1).double().expand(8, 6 * 7) for _ in range(2))
    rope = rope.double()
    rotated_q, rotated_k = (rope(x[None], 6, 7)[0].reshape(8, 6, 7) for x in (q, k))
    products = torch.einsum("drc,dsw->rcsw", rotated_q, rotated_k)
    for down, across in ((0, 1), (2, 0), (3, 2)):
        same = torch.stack([products[r, c, r + down, c + across] for r in range(3) for c in range(5)])
        assert torch.allclose(same, same[0].expand_as(same))
    assert not torch.allclose(products[0, 0, 0, 1], products[0, 0, 1, 0])


def test_rows_of_the_reweighting_add_up_to_one() -> None:
    weights, _ = ChannelReweighting(8).weights(torch.randn(2, 8, 4, 6))
    assert weights.shape == (2, 8, 8)
    assert torch.allclose(weights.sum(-1), torch.ones(()))


@pytest.mark.parametrize("rope", [False, True])
def test_local_context_sees_the_anchors_of_its_window_alone(rope: bool) -> None:
    context = LocalContext(8, window=3, rope=rope).eval()
    where = anchors(6, 8, CPU)
    x = only(torch.randn(1, 8, 6, 8), where)
    changed = x.clone()
    changed[..., 2, 3] = torch.randn(8)  # an anchor
    with torch.no_grad():
        differs = (context(x) - context(changed)).abs().amax((0, 1)) > 1e-6
    near = torch.zeros(6, 8, dtype=torch.bool)
    near[1:4, 2:5] = True
    assert not differs[~near].any()
    assert differs[2, 3]
    assert differs[near & ~where].all()


def test_local_attention_is_that_of_a_loop_over_windows() -> None:
    channels, heads, window = 4, 2, 3
    context = LocalContext(channels, window, heads).eval()
    x = only(torch.randn(1, channels, 4, 4), anchors(4, 4, CPU))
    with torch.no_grad():
        found = context(x)
        q, k, v = context.qkv_proj(context.norm1(x[0].permute(1, 2, 0))).chunk(3, dim=-1)
        board = anchors(4, 4, CPU)
        bias = context.relative_position_table[context.relative_position_index]  # [9, 9, heads]
        fused = torch.zeros(4, 4, 2 * channels)
        for row in range(4):
            for column in range(4):
                places = [(row + dr, column + dc) for dr in (-1, 0, 1) for dc in (-1, 0, 1)]
                inside = [0 <= r < 4 and 0 <= c < 4 for r, c in places]

                def of(
                    values: torch.Tensor, ok: list[bool] = inside, at: list[tuple[int, int]] = places
                ) -> torch.Tensor:
                    return torch.stack(
                        [values[p] if good else torch.zeros(channels) for p, good in zip(at, ok, strict=True)]
                    )

                mark = torch.tensor([good and bool(board[p]) for p, good in zip(places, inside, strict=True)])
                mask = torch.where(mark[:, None] & mark, 0.0, -100.0)
                results = torch.zeros(9, channels)
                for head in range(heads):
                    own = slice(head, channels, heads)
                    scores = of(q)[:, own] @ of(k)[:, own].T * (channels // heads) ** -0.5 + bias[..., head] + mask
                    results[:, own] = scores.softmax(-1) @ of(v)[:, own]
                # channels of the fusion are ordered by head
                by_head = torch.cat([results[:, slice(head, channels, heads)] for head in range(heads)], dim=1)
                weight = context.fusion.weight.flatten(2)  # [2C, C, 9]
                fused[row, column] = torch.einsum("ocp,pc->o", weight, by_head) + context.fusion.bias
        fused = context.proj(fused)
        expected = fused + context.mlp(context.norm2(fused))
    assert torch.allclose(found[0].permute(1, 2, 0), expected, atol=1e-5)
