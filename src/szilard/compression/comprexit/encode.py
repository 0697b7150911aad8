"""Contexts through the frozen model, piece by piece, and from its hidden states into slots."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from szilard.compression.comprexit.add_on import ComprExITAddOn


@dataclass(frozen=True)
class Slots:
    """A compressed context.

    Attributes:
        vectors: [slots, d], with gradients to the add-on where they are recorded.
        pooled: the same before the projector.
        gates: [tokens, L + 1].
        plan: [windows, W, K_w].
        capacity: [windows, W].
        places: the context's token at each place of each window, -1 for none, int64 [windows, W].
        valid: which fields of a window have a slot, bool [windows, K_w].
    """

    vectors: torch.Tensor
    pooled: torch.Tensor
    gates: torch.Tensor
    plan: torch.Tensor
    capacity: torch.Tensor
    places: torch.Tensor
    valid: torch.Tensor


@torch.no_grad()
def read(model: Any, pieces: Sequence[torch.Tensor]) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
    """All hidden states of some texts: one forward, without the output layer.

    Padding is on the right, where causal attention does not see it, so that every row's positions begin with 0.

    Args:
        model: a causal language model of transformers.
        pieces: int64 [n] each.

    Returns:
        L + 1 tensors [batch, longest, d], the last one behind the final norm; the mask, bool [batch, longest].
    """
    device = model.get_input_embeddings().weight.device
    ids = pad_sequence(list(pieces), batch_first=True).to(device)
    lengths = torch.tensor([len(piece) for piece in pieces], device=device)
    mask = torch.arange(ids.shape[1], device=device) < lengths[:, None]
    outputs = model.get_decoder()(input_ids=ids, attention_mask=mask.long(), output_hidden_states=True, use_cache=False)
    return outputs.hidden_states, mask


def transmit(
    model: Any,
    add_on: ComprExITAddOn,
    contexts: Sequence[torch.Tensor],
    *,
    segment: int,
    batch_size: int | None = None,
    slots: Sequence[int | None] | None = None,
) -> list[Slots]:
    """Compress contexts: cut into segments ("map"), each read by itself, their slots joined ("reduce").

    Args:
        model: the frozen one.
        contexts: int64 [n], n >= 1 each.
        segment: tokens that are read together.
        batch_size: segments per forward; None: all.
        slots: K_w of each context; None: that of the trained ratio.
    """
    wanted: list[int | None] = [None] * len(contexts) if slots is None else list(slots)
    jobs = [
        (row, first, context[first : first + segment])
        for row, context in enumerate(contexts)
        for first in range(0, len(context), segment)
    ]
    parts: list[list[Slots]] = [[] for _ in contexts]
    for fields, group in _groups(jobs, wanted, batch_size):
        for (row, _, _), part in zip(group, _compressed(model, add_on, group, fields), strict=True):
            parts[row].append(part)
    return [_joined(found) for found in parts]


Job = tuple[int, int, torch.Tensor]  # row, first token, ids


def _groups(jobs: list[Job], wanted: list[int | None], most: int | None) -> Iterator[tuple[int | None, list[Job]]]:
    """Segments that go through the model together: neighbours with the same K_w, so many at most."""
    for fields, same in itertools.groupby(jobs, key=lambda job: wanted[job[0]]):
        found = list(same)
        step = most or len(found)
        for start in range(0, len(found), step):
            yield fields, found[start : start + step]


def _compressed(model: Any, add_on: ComprExITAddOn, group: list[Job], fields: int | None) -> list[Slots]:
    hidden, mask = read(model, [ids for _, _, ids in group])
    made = add_on(hidden, mask, fields)
    rows = []
    for index, (_, first, ids) in enumerate(group):
        windows = -(-len(ids) // add_on.window)
        places = made.places[index, :windows]
        chosen = made.valid[index]
        rows.append(
            Slots(
                vectors=made.slots[index, chosen],
                pooled=made.pooled[index, chosen],
                gates=made.gates[index, : len(ids)],
                plan=made.plan[index, :windows],
                capacity=made.capacity[index, :windows],
                places=torch.where(places >= 0, places + first, -1),
                valid=chosen.unflatten(0, (-1, made.plan.shape[-1]))[:windows],
            )
        )
    return rows


def _joined(parts: list[Slots]) -> Slots:
    if len(parts) == 1:
        return parts[0]
    names = ("vectors", "pooled", "gates", "plan", "capacity", "places", "valid")
    return Slots(*(torch.cat([getattr(part, name) for part in parts]) for name in names))
