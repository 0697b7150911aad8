"""Which chunks of a context are expanded, by each of the policies."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional

from szilard.compression.refrag.add_on import RefragParts
from szilard.engines.model_parts import unembed

POLICIES = ("learned", "perplexity", "perplexity-asc", "random", "none")
_TOKENS_AT_ONCE = 2048


@torch.no_grad()
def policy_logits(parts: RefragParts, embeddings: torch.Tensor) -> torch.Tensor:
    """g_theta's logits of one prompt's chunks: [L, d_e] -> [L]."""
    device = parts.policy.head.weight.device
    real = torch.ones(1, len(embeddings), dtype=torch.bool, device=device)
    return parts.policy(embeddings.to(device)[None], real)[0].float().cpu()


@torch.no_grad()
def chunk_nats(model: Any, ids: torch.Tensor, lengths: torch.Tensor, start: Sequence[int]) -> torch.Tensor:
    """Mean nats per token of each chunk of a text under the decoder: log-perplexity, float32 [L].

    Texts beyond what the decoder reads at once (or 2048 tokens) are read in stretches.

    Args:
        model: the decoder.
        ids: int64 [tokens].
        lengths: of the chunks, int64 [L].
        start: ids in front of the text (BOS); without any, the first token counts as its chunk's others do.
    """
    window = getattr(model.config.get_text_config(), "max_position_embeddings", None) or _TOKENS_AT_ONCE
    size = max(1, min(window, _TOKENS_AT_ONCE) - len(start))
    device = model.get_input_embeddings().weight.device
    before = torch.tensor(list(start), dtype=torch.int64)
    each, known = [], []
    for part in ids.split(size):
        row = torch.cat([before, part])
        hidden = model.get_decoder()(input_ids=row[None].to(device), use_cache=False).last_hidden_state[0]
        first = max(0, len(start) - 1)
        logits = unembed(model, hidden[first:-1]).float()
        nats = functional.cross_entropy(logits, row[first + 1 :].to(device), reduction="none").cpu()
        missing = len(part) - len(nats)  # 1 where nothing stands in front of the stretch
        each.append(functional.pad(nats, (missing, 0)))
        known.append(functional.pad(torch.ones_like(nats), (missing, 0)))
    chunk = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
    total = torch.zeros(len(lengths)).index_add(0, chunk, torch.cat(each))
    return total / torch.zeros(len(lengths)).index_add(0, chunk, torch.cat(known)).clamp(min=1)


def ranked(policy: str, scores: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """All chunks, those first that a policy expands first, int64 [L]; of equal ones the earlier (inferred).

    Args:
        policy: one of `POLICIES` but "none".
        scores: [L], of the learned policy or nats per token; not looked at by "random".
        generator: of "random".
    """
    if policy == "random":
        return torch.randperm(len(scores), generator=generator)
    return (scores if policy == "perplexity-asc" else -scores).argsort(stable=True)


def pick(policy: str, count: int, scores: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Which `count` chunks (T') are expanded, bool [L]; see `ranked`."""
    chosen = torch.zeros(len(scores), dtype=torch.bool)
    if policy != "none" and count:
        chosen[ranked(policy, scores, generator)[:count]] = True
    return chosen


def by_passage(flat: torch.Tensor, sizes: Sequence[int]) -> list[torch.Tensor]:
    """A vector over all chunks of a prompt, cut into its stores."""
    ends = list(itertools.accumulate(sizes, initial=0))
    return [flat[a:b] for a, b in itertools.pairwise(ends)]
