"""The filter of Learn2PD: its size, its padding, and what it refuses."""

from __future__ import annotations

import pytest
import torch

from szilard.diffusion.learn2pd.filter import BlockFilter
from szilard.training.add_on import AddOn
from tests.diffusion.learn2pd.rows import BASE


def test_a_filter_of_two_layers_has_2112_numbers_for_blocks_of_32():
    made = BlockFilter(BASE, 48)
    assert isinstance(made, AddOn)
    assert sum(parameter.numel() for parameter in made.parameters()) == 2112 == 2 * 32**2 + 2 * 32


@pytest.mark.parametrize(("layers", "count"), [(1, 42), (2, 84), (4, 168)])
def test_every_layer_has_b_squared_and_b_numbers(layers, count):
    made = BlockFilter(BASE, 48, block_length=6, layers=layers)
    assert sum(parameter.numel() for parameter in made.parameters()) == count


def test_a_filter_of_two_layers_is_the_papers_formula():
    torch.manual_seed(0)
    made = BlockFilter(BASE, 48, block_length=6, hidden=9)
    c = torch.rand(4, 6)
    first, _, second = made.net
    hidden = torch.relu(c @ first.weight.T + first.bias)
    assert torch.allclose(made(c), hidden @ second.weight.T + second.bias, atol=1e-6)


def test_a_shorter_block_is_one_padded_with_zeros():
    torch.manual_seed(1)
    made = BlockFilter(BASE, 48, block_length=6)
    c = torch.rand(3, 4)
    padded = torch.cat([c, torch.zeros(3, 2)], dim=1)
    assert torch.equal(made(c), made(padded)[:, :4])


def test_a_threshold_of_one_accepts_nothing_and_equality_is_not_enough():
    made = BlockFilter(BASE, 48, block_length=2, layers=1)
    with torch.no_grad():
        made.net[0].weight.zero_()
        made.net[0].bias.copy_(torch.tensor([0.0, 100.0]))
    c = torch.rand(1, 2)
    assert made.accepts(c, 0.5).tolist() == [[False, True]]
    assert not made.accepts(c, 1.0).any()


def test_half_and_double_confidences_are_read_as_float32():
    made = BlockFilter(BASE, 48, block_length=6)
    c = torch.rand(2, 6, dtype=torch.float64)
    assert made(c).dtype == torch.float32 and torch.equal(made(c), made(c.float()))
    assert made(c.to(torch.bfloat16)).dtype == torch.float32


def test_a_filter_is_the_same_after_saving(tmp_path):
    torch.manual_seed(2)
    made = BlockFilter(BASE, 5, block_length=6, hidden=7, layers=4)
    made.save_pretrained(tmp_path)
    again = BlockFilter.from_pretrained(tmp_path)
    assert (again.mask_token_id, again.block_length, again.base) == (5, 6, BASE)
    c = torch.rand(3, 6)
    assert torch.equal(made(c), again(c)) and made.fingerprint == again.fingerprint


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"fingerprint": "xyz"}, r"other weights \(xyz\)"),
        ({"vocab_size": 51}, "a vocabulary of 50"),
        ({"mask_token_id": 5}, "mask id 48, but other is asked with 5"),
        ({"block_length": 16}, "blocks of 32 tokens, not 16: set block_length=32"),
    ],
)
def test_another_model_or_block_is_refused(other, words):
    made = BlockFilter(BASE, 48)
    own = {"vocab_size": 50, "hidden_size": 8, "fingerprint": "abc", "mask_token_id": 48, "block_length": 32}
    made.check_made_for(name="tiny", **own)
    with pytest.raises(ValueError, match=words) as caught:
        made.check_made_for(name="other", **(own | other))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("shape", [(6,), (2, 7), (2, 0), (1, 2, 6)])
def test_confidences_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match="one block a row"):
        BlockFilter(BASE, 48, block_length=6)(torch.zeros(shape))


@pytest.mark.parametrize(
    ("options", "words"),
    [({"block_length": 0}, "block_length"), ({"layers": 0}, "layers"), ({"layers": 1, "hidden": 4}, "hidden=4")],
)
def test_filters_that_cannot_be_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        BlockFilter(BASE, 48, **options)
