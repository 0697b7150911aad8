"""Hidden states of bare words: what a model makes of king, and of queen.

A word is given as it is, with the special tokens that its tokenizer adds by itself; its state e(u) is hidden_states[k]
at its last real token. hidden_states[-1] is what the output layer reads: f_x of p(y|x) = softmax(f_x^T f_y).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from szilard.options import check_number
from szilard.representation.concept_sae.layers import LayerReader
from szilard.representation.concept_sae.pairs import ConceptPairs

States = Mapping[str, tuple[Tensor, Tensor]]


@torch.no_grad()
def concept_states(
    engine: Any, pairs: Mapping[str, Any], layer: int = -1, *, batch_size: int = 64
) -> dict[str, tuple[Tensor, Tensor]]:
    """States of both words of every pair; each different word is run once.

    Args:
        engine: an engine of transformers: it holds a model and a tokenizer.
        pairs: `ConceptPairs`, or pairs by concept.
        layer: k of hidden_states[k]: 0 are the embeddings, -1 is what the output layer reads.
        batch_size: words per forward, padded on the right.

    Returns:
        (E1 [N, d], E0 [N, d]) by concept: of the first and the second words; float32, on the CPU.

    Raises:
        TypeError: an engine without a model of transformers.
        ValueError: no such layer, a model that does not run on token ids alone, a word without tokens, or states that
            are no numbers.
    """
    concepts = pairs if isinstance(pairs, ConceptPairs) else ConceptPairs(pairs)
    check_number("batch_size", batch_size, low=1, integer=True)
    model: Any = getattr(engine, "model", None)
    tokenizer: Any = getattr(engine, "tokenizer", None)
    if not isinstance(getattr(engine, "model", None), nn.Module) or tokenizer is None:
        raise TypeError(f"concept states need an engine of transformers, not {type(engine).__name__}.")
    words = list(dict.fromkeys(word for both in concepts.values() for pair in both for word in pair))
    ids = [list(tokenizer(word)["input_ids"]) for word in words]
    for word, tokens in zip(words, ids, strict=True):
        if not tokens:
            raise ValueError(f"the tokenizer makes nothing of the word {word!r}: leave its pair out.")
    was = model.training
    model.eval()
    try:
        reader = LayerReader(model, layer)
        most = reader.positions
        for word, tokens in zip(words, ids, strict=True):
            if most is not None and len(tokens) > most:
                raise ValueError(f"{word[:40]!r}... has {len(tokens)} tokens, and the model takes {most}: shorten it.")
        states = _last_states(reader, ids, batch_size)
    finally:
        model.train(was)
    if not bool(torch.isfinite(states).all()):
        bad = words[int((~torch.isfinite(states)).any(1).int().argmax())]
        raise ValueError(f"the state of {bad!r} in layer {layer} is not finite: load the model in float32.")
    place = {word: at for at, word in enumerate(words)}
    found = {}
    for name, both in concepts.items():
        rows = torch.tensor([[place[first], place[second]] for first, second in both])
        found[name] = (states[rows[:, 0]], states[rows[:, 1]])
    return found


def _last_states(reader: LayerReader, texts: list[list[int]], batch_size: int) -> Tensor:
    """[words, d], float32 on the CPU."""
    order = sorted(range(len(texts)), key=lambda at: len(texts[at]))
    parts = []
    for first in range(0, len(order), batch_size):
        chosen = [texts[at] for at in order[first : first + batch_size]]
        lengths = torch.tensor([len(tokens) for tokens in chosen])
        mask = torch.arange(int(lengths.max())) < lengths[:, None]
        ids = torch.zeros(mask.shape, dtype=torch.int64)
        ids[mask] = torch.tensor([token for tokens in chosen for token in tokens])
        hidden = reader(ids, mask.long())
        # The end of the real tokens, which is on the right of them only because the padding is on the right.
        parts.append(
            hidden[torch.arange(len(chosen), device=hidden.device), (lengths - 1).to(hidden.device)].float().cpu()
        )
    found = torch.cat(parts)
    return found[torch.tensor(order).argsort()]


def checked_states(states: Any) -> dict[str, tuple[Tensor, Tensor]]:
    """States as float64 tensors on the CPU, of one width.

    Raises:
        TypeError: no mapping of names to two tensors.
        ValueError: nothing, shapes that do not match, fewer than 4 pairs, or values that are no numbers.
    """
    if not isinstance(states, Mapping):
        raise TypeError(
            f"states must map names to (E1, E0), as concept_states gives them, not {type(states).__name__}."
        )
    if not states:
        raise ValueError("there are no concepts: give at least one.")
    found: dict[str, tuple[Tensor, Tensor]] = {}
    width = None
    for name, both in states.items():
        if not isinstance(both, (tuple, list)) or len(both) != 2:
            raise TypeError(f"the states of concept {name!r} must be two arrays (E1, E0), not {type(both).__name__}.")
        found[str(name)] = checked_pair(str(name), *both)
        width = width or found[str(name)][0].shape[1]
        if found[str(name)][0].shape[1] != width:
            raise ValueError(f"concept {name!r} has states of width {found[str(name)][0].shape[1]}, others of {width}.")
    return found


def checked_pair(name: str, positive: Any, negative: Any) -> tuple[Tensor, Tensor]:
    """E1 and E0 [N, d] as float64 on the CPU; errors as of `checked_states`."""
    first, second = (_numbers(name, side) for side in (positive, negative))
    if first.dim() != 2 or first.shape != second.shape:
        raise ValueError(
            f"the states of {name} must be [pairs, d] twice, not {list(first.shape)} and {list(second.shape)}."
        )
    if not first.shape[1]:
        raise ValueError(f"the states of {name} have width 0: there is nothing to read a concept from.")
    if len(first) < 4:
        raise ValueError(f"{name} has {len(first)} pairs; cross-validation needs at least 4.")
    if not bool(torch.isfinite(first).all() & torch.isfinite(second).all()):
        raise ValueError(f"the states of {name} are not all finite.")
    return first, second


def _numbers(name: str, side: Any) -> Tensor:
    """Float64 on the CPU of what a user gave as states."""
    try:
        found = torch.as_tensor(side)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"the states of {name} must be two arrays of numbers, not {type(side).__name__}.") from error
    if found.is_complex():
        raise TypeError(f"the states of {name} must be real numbers, not {found.dtype}.")
    return found.detach().cpu().double()
