"""Teacher forcing behind vectors is the model's own loss."""

from __future__ import annotations

import pytest
import torch

from szilard.compression.teacher_forcing import Forced, Measured, teacher_forced


@pytest.mark.parametrize("first", [True, False])
def test_teacher_forcing_is_the_models_own_loss(model, first: bool) -> None:
    ids = [[2, 9, 10, 11, 12, 13, 14], [3, 4, 5, 6]]
    cuts = [3, 2]
    embed = model.get_input_embeddings()
    before = [embed(torch.tensor(row[:cut])) for row, cut in zip(ids, cuts, strict=True)]
    forced = teacher_forced(
        model, before, [torch.tensor(row[cut:]) for row, cut in zip(ids, cuts, strict=True)], first=first
    )
    expected = []
    for row, cut in zip(ids, cuts, strict=True):
        start = cut + (0 if first else 1)
        chances = model(torch.tensor([row])).logits[0].log_softmax(-1)
        expected.append(-sum(chances[place - 1, row[place]] for place in range(start, len(row))))
    torch.testing.assert_close(forced.nats, torch.stack(expected).float(), atol=1e-4, rtol=1e-4)
    assert forced.tokens.tolist() == ([4, 2] if first else [3, 1])
    torch.testing.assert_close(forced.loss.float(), forced.nats.sum() / forced.tokens.sum())


def test_what_is_measured_is_a_mean_over_the_tokens_of_all_batches() -> None:
    found = Measured()
    for nats, right, tokens in (([2.0, 4.0], 0.5, [1, 3]), ([6.0], 0.25, [4]), ([], float("nan"), [])):
        found.add("nll", Forced(torch.tensor(0.0), torch.tensor(nats), torch.tensor(tokens), torch.tensor(right)))
    assert (found.nats("nll"), found.right("nll"), found.nats("else")) == (1.5, 0.375, 0.0)
