"""One pass over texts: what the head says at every position, and hidden states at some of them.

Indexing, in which errors hide: the state at position i of a window has read tokens 0 .. i and predicts token i + 1. In
the paper's words it is H_t with t = i + 1, W_t is token i + 1, and the first token of the surplus, W_{t+1}, is token i
+ 2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

POSITIONS_AT_ONCE = 128  # distributions over the vocabulary held at a time


@dataclass
class Positions:
    """What was seen at N sampled positions; rows belong together.

    Attributes:
        document: [N] which text each is of.
        place: [N] i, its place in the window.
        following: [N, K] tokens i + 1 .. i + K.
        nll: [N, K] the model's loss on each of them, given everything before, nats.
        greedy: [N, K] the model's likeliest token at each of their places.
        hidden: by layer, [N, d] float32: states of middle layers can be larger than half precision holds.
    """

    document: Tensor
    place: Tensor
    following: Tensor
    nll: Tensor
    greedy: Tensor
    hidden: dict[int, Tensor]

    def __len__(self) -> int:
        return len(self.document)


@dataclass
class Collected:
    """Of a whole pass.

    Attributes:
        entropy: by divergence, [M] values at all positions.
        nll: [M] of the token that came, nats.
        document: [M].
        place: [M].
        positions: those at which hidden states were kept.
        mass: [V] mean distribution, for the mean metric; None without hidden states.
        outer: [d, d] mean of u_bar u_bar^T.
        contexts: [n', V] distributions of some of `positions`, half precision.
        context_rows: [n'] which.
    """

    entropy: dict[str, Tensor] = field(default_factory=dict)
    nll: Tensor = field(default_factory=lambda: torch.zeros(0))
    document: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))
    place: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))
    positions: Positions | None = None
    mass: Tensor | None = None
    outer: Tensor | None = None
    contexts: Tensor | None = None
    context_rows: Tensor | None = None


def windows(texts: Sequence[Sequence[int]], length: int) -> list[tuple[int, list[int]]]:
    """(text, ids) of every stretch of `length` tokens, the last one shorter; stretches of fewer than 4 are left out."""
    found = []
    for number, ids in enumerate(texts):
        found += [(number, list(ids[start : start + length])) for start in range(0, len(ids), length)]
    return [(number, ids) for number, ids in found if len(ids) >= 4]


def linear_head(model: Any) -> Tensor:
    """U, [V, d], of a model whose logits are U times its last hidden state.

    Raises:
        ValueError: they are not: a cap on the logits, a bias, or another head.
    """
    output = model.get_output_embeddings()
    if output is None or not hasattr(output, "weight"):
        raise ValueError(f"{type(model).__name__} has no output embedding, so its head cannot be looked into.")
    ids = torch.arange(4, device=model.device).unsqueeze(0) % model.config.get_text_config().vocab_size
    with torch.no_grad():
        seen = model(input_ids=ids, output_hidden_states=True, use_cache=False)
    if getattr(seen, "hidden_states", None) is None or seen.hidden_states[-1].shape[-1] != output.weight.shape[1]:
        raise ValueError(
            f"{type(model).__name__} gives no hidden states that its output embedding reads, so surplus, geometry and "
            "alignment are not defined by it: measure entropies alone (probes=False, geometry=False)."
        )
    made = seen.hidden_states[-1].float() @ output.weight.detach().float().T
    apart = (made - seen.logits.float()).abs().max() / seen.logits.float().abs().max().clamp(min=1e-6)
    if not float(apart) < 0.02:
        raise ValueError(
            f"the logits of {type(model).__name__} are not a matrix times its last hidden state (a cap, a bias or a "
            "scale), so geometry and alignment are not defined by it: measure entropies alone (geometry=False)."
        )
    return output.weight.detach()


@torch.no_grad()
def collect(
    model: Any,
    stretches: Sequence[tuple[int, list[int]]],
    *,
    divergences: Sequence[str],
    horizon: int,
    layers: Sequence[int],
    kept: int,
    contexts: int,
    head: Tensor | None,
    vocabulary: int,
    seed: int,
    batch: int = 4,
    progress: Callable[[int], None] | None = None,
) -> Collected:
    """Run the model over all stretches.

    Args:
        model: of transformers.
        stretches: of `windows`.
        divergences: of the categorical entropy.
        horizon: K, tokens that are kept after a position.
        layers: whose hidden states are kept.
        kept: positions with hidden states, at most; drawn evenly from the stretches.
        contexts: of these, positions whose whole distribution is kept.
        head: U for the sums behind the mean metric; None: no sums.
        vocabulary: tokens that exist; logits of further ones are dropped.
        seed: of the draws.
        batch: stretches at once.
        progress: told how many stretches are done.
    """
    from szilard.information.categorical_entropy import categorical_entropy

    chance = torch.Generator().manual_seed(seed)
    room = [max(0, len(ids) - horizon - 1) for _, ids in stretches]
    drawn = torch.randperm(sum(room), generator=chance)[:kept].sort().values
    starts = torch.tensor([0, *room]).cumsum(0)
    owner = torch.searchsorted(starts, drawn, right=True) - 1
    place = drawn - starts[owner]
    wanted = torch.zeros(len(drawn), dtype=torch.bool)
    wanted[torch.randperm(len(drawn), generator=chance)[:contexts]] = True
    device, width = model.device, model.config.get_text_config().hidden_size
    u = None if head is None else head[:vocabulary].float().to(device)
    mass = torch.zeros(vocabulary, dtype=torch.float64)
    outer = torch.zeros(width, width, dtype=torch.float64)
    parts: dict[str, list[Tensor]] = {}

    def keep(name: str, value: Tensor) -> None:
        parts.setdefault(name, []).append(value.cpu())

    order = sorted(range(len(stretches)), key=lambda at: len(stretches[at][1]))
    for done in range(0, len(order), batch):
        chosen = order[done : done + batch]
        longest = max(len(stretches[at][1]) for at in chosen)
        ids = torch.zeros(len(chosen), longest, dtype=torch.long)
        mask = torch.zeros(len(chosen), longest, dtype=torch.long)
        for row, at in enumerate(chosen):
            own = stretches[at][1]
            ids[row, : len(own)], mask[row, : len(own)] = torch.tensor(own), 1
        ids, mask = ids.to(device), mask.to(device)
        seen = model(input_ids=ids, attention_mask=mask, output_hidden_states=bool(layers), use_cache=False)
        for row, at in enumerate(chosen):
            number, own = stretches[at]
            length = len(own)
            losses, likeliest = [], []
            inside = (owner == at).nonzero().squeeze(1)
            whole = place[inside[wanted[inside]]]
            for low in range(0, length - 1, POSITIONS_AT_ONCE):
                high = min(low + POSITIONS_AT_ONCE, length - 1)
                log_p = seen.logits[row, low:high, :vocabulary].float().log_softmax(-1)
                p = log_p.exp()
                for name in divergences:
                    keep(f"entropy {name}", categorical_entropy(p, name))
                losses.append(-log_p.gather(1, ids[row, low + 1 : high + 1, None]).squeeze(1).cpu())
                likeliest.append(log_p.argmax(-1).cpu())
                if u is not None:
                    mean = p @ u
                    mass += p.sum(0).double().cpu()
                    outer += (mean.T @ mean).double().cpu()
                here = whole[(whole >= low) & (whole < high)] - low
                if len(here):
                    keep("contexts", p[here.to(device)].half())
            loss, best = torch.cat(losses), torch.cat(likeliest)
            keep("nll", loss)
            keep("document", torch.full((length - 1,), number))
            keep("place", torch.arange(length - 1))
            if len(inside):
                spots = place[inside].unsqueeze(1) + torch.arange(horizon)
                keep("kept document", torch.full((len(inside),), number))
                keep("kept place", place[inside])
                keep("following", ids[row].cpu()[spots + 1])
                keep("kept nll", loss[spots])
                keep("greedy", best[spots])
                keep("wanted", wanted[inside])
                for layer in layers:
                    keep(f"hidden {layer}", seen.hidden_states[layer][row, place[inside].to(device)].float())
        if progress is not None:
            progress(min(done + batch, len(order)))
    joined = {name: torch.cat(values) for name, values in parts.items()}
    count = len(joined["nll"])
    positions = None
    if layers and "following" in joined:
        hidden = {layer: joined[f"hidden {layer}"] for layer in layers}
        names = ("kept document", "kept place", "following", "kept nll", "greedy")
        document, where, following, losses_there, best_there = (joined[name] for name in names)
        positions = Positions(document, where, following, losses_there, best_there, hidden)
    return Collected(
        entropy={name: joined[f"entropy {name}"] for name in divergences},
        nll=joined["nll"],
        document=joined["document"],
        place=joined["place"],
        positions=positions,
        mass=None if u is None else mass / count,
        outer=None if u is None else outer / count,
        contexts=joined.get("contexts"),
        context_rows=joined["wanted"].nonzero().squeeze(1) if "wanted" in joined else None,
    )
