"""What UnComp knows of a model before it runs: the entropy of its heads and layers on a calibration text.

Xiong et al., EMNLP 2025, arXiv 2410.03090. Reference code: menik1126/UNComp (Apache-2.0).

    TME_h     truncated matrix entropy of the queries of head h after rotation, k largest eigenvalues, over log d
    e_l       = mean over texts of sum_h exp(TME_h)             score of layer l (inferred from the code's numbers)
    stages    layer i begins a new one when e_i - e_(i-1) < -eps
    groups    heads are ranked by TME in every text; group v takes the heads that lay most often in the v-th part
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from szilard.engines.model_parts import weights_fingerprint
from szilard.options import check_choice, check_number
from szilard.sessions.matrix_entropy_profile import head_entropy_profile

WHAT = ("query", "key", "value")
_FULL_SCORE_HEADS = 32  # heads of the models on which the paper's threshold of a drop was set
_KIND = "uncomp"


@dataclass(frozen=True, repr=False)
class UnCompPlan:
    """A model's calibration. Groups and stages of any number and threshold follow from it.

    Attributes:
        rank_votes: of every layer and key-value head, in how many texts it had each rank, [layers][kv heads][kv heads];
            rank 0 is the lowest entropy.
        head_entropy: mean truncated matrix entropy (share of log d) of every layer and key-value head, with grouped
            heads the mean over the query heads of a group, [layers][kv heads].
        layer_scores: e_l of every layer.
        heads: heads that a layer's score adds up.
        what: "query", "key" or "value".
        top: k.
        texts: how many texts were looked at.
        model: the model's name.
        fingerprint: of its weights, in their precision; empty: fits every model of this shape.
    """

    rank_votes: tuple[tuple[tuple[int, ...], ...], ...]
    head_entropy: tuple[tuple[float, ...], ...]
    layer_scores: tuple[float, ...]
    heads: int
    what: str = "query"
    top: int | None = None
    texts: int = 0
    model: str = ""
    fingerprint: str = ""

    def __repr__(self) -> str:
        return f"UnCompPlan({self.model or 'any model'}, {self.fingerprint}, {self.texts} texts)"

    @property
    def layers(self) -> int:
        """Layers of the model."""
        return len(self.layer_scores)

    @property
    def kv_heads(self) -> int:
        """Key-value heads of a layer."""
        return len(self.head_entropy[0])

    @property
    def digest(self) -> str:
        """A hash of what was measured, for records."""
        return f"plan {hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:12]}"

    def reversed(self) -> UnCompPlan:
        """The plan that takes the heads of the lowest entropy for those of the highest."""
        return replace(
            self,
            rank_votes=tuple(tuple(head[::-1] for head in layer) for layer in self.rank_votes),
            head_entropy=tuple(tuple(-entropy for entropy in layer) for layer in self.head_entropy),
        )

    def head_group(self, groups: int = 2, *, drop: int = 0) -> list[list[int]]:
        """The group of every key-value head, [layers][kv heads]: 0 has the lowest entropy, -1 is dropped.

        Args:
            groups: how many.
            drop: heads of every layer that belong to none: those with the lowest mean entropy.

        Raises:
            ValueError: more groups than heads are left.
        """
        sizes = group_sizes(self.kv_heads - drop, groups)
        bounds = [sum(sizes[:index]) + drop for index in range(groups + 1)]  # of the ranks that make a group's label
        assigned = []
        for votes, entropy in zip(self.rank_votes, self.head_entropy, strict=True):
            order = sorted(range(self.kv_heads), key=lambda head: (entropy[head], head))
            label = [-1] * self.kv_heads
            free = set(order[drop:])
            for group, size in enumerate(sizes):
                part = slice(bounds[group], bounds[group + 1])
                best = sorted(free, key=lambda head: (-sum(votes[head][part]), entropy[head], head))[:size]
                free -= set(best)
                for head in best:
                    label[head] = group
            assigned.append(label)
        return assigned

    def layer_stage(self, drop: float = 1.0) -> list[int]:
        """The stage of every layer, see `layer_stages`.

        Args:
            drop: eps, on the scale of 32 heads; the score adds heads up, so fewer heads make it proportionally less.
        """
        # Paper: eps = 1 for models of 32 and 40 heads; here: scaled below 32 because a score of few heads never falls
        # by 1 (inferred).
        return layer_stages(self.layer_scores, drop * min(1.0, self.heads / _FULL_SCORE_HEADS))

    def check_fits(self, model: Any, layers: int, kv_heads: int) -> None:
        """Refuse a model that the plan was not made for.

        Raises:
            ValueError: other weights, or another shape.
        """
        name = type(model).__name__
        made = f"this UnComp plan was made for {self.model or 'a model'} of {self.layers} layers and {self.kv_heads}"
        if (self.layers, self.kv_heads) != (layers, kv_heads):
            raise ValueError(
                f"{made} key-value heads, but {name} has {layers} and {kv_heads}: make one for it with `szilard train "
                "uncomp`."
            )
        own = weights_fingerprint(model)
        if self.fingerprint and self.fingerprint != own:
            raise ValueError(
                f"{made} key-value heads (weights {self.fingerprint}), but this {name} has other weights, or others "
                f"in precision ({own}): make one for it with `szilard train uncomp`."
            )

    def save(self, path: str | Path) -> None:
        """Write as JSON, whole or not at all."""
        path = Path(path)
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        partial.write_text(json.dumps({"method": _KIND} | asdict(self)) + "\n", encoding="utf-8")
        partial.replace(path)

    @classmethod
    def load(cls, path: str | Path) -> UnCompPlan:
        """Read a saved plan.

        Raises:
            ValueError: no such file, or another kind of file.
        """
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
            if values.pop("method") != _KIND:
                raise KeyError("method")
            values["rank_votes"] = tuple(tuple(tuple(map(int, head)) for head in row) for row in values["rank_votes"])
            values["head_entropy"] = tuple(tuple(map(float, row)) for row in values["head_entropy"])
            values["layer_scores"] = tuple(map(float, values["layer_scores"]))
            plan = cls(**values)
            heads = plan.kv_heads
            square = all(len(layer) == heads == len(head) for layer in plan.rank_votes for head in layer)
            if not square or {len(layer) for layer in plan.head_entropy} != {heads}:
                raise KeyError("rank_votes")
            if not plan.layers == len(plan.rank_votes) == len(plan.head_entropy):
                raise KeyError("layer_scores")
            return plan
        except OSError:
            raise ValueError(
                f"there is no UnComp plan {str(path)!r}: make one with `szilard train uncomp --data TEXTS -o FILE`."
            ) from None
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, ValueError, AttributeError, IndexError):
            raise ValueError(f"{str(path)!r} is no plan of `szilard train uncomp`.") from None


def calibrate_uncomp(
    model: Any,
    texts: Iterable[Sequence[int]],
    *,
    what: str = "query",
    top: int | None = None,
    name: str = "",
    progress: Callable[[int], None] | None = None,
) -> UnCompPlan:
    """Look at a model's heads and layers on texts.

    Args:
        model: a decoder-only model of transformers.
        texts: token ids; the paper takes some 512 rows of WikiText-2.
        what: the states whose entropy is taken: "query" (after rotation, paper), "key" (after rotation) or "value".
        top: k; None: a quarter of the head size, 32 of the paper's 128.
        name: of the model, for messages.
        progress: called with the number of texts done.

    Raises:
        ValueError: no text of at least two tokens, or a model without the attention interface.
    """
    check_choice("what", what, WHAT)
    check_number("top", top, low=1, integer=True, optional=True)
    decoder = model.get_decoder().config
    kv_heads = int(getattr(decoder, "num_key_value_heads", None) or decoder.num_attention_heads)
    size = getattr(decoder, "head_dim", None) or decoder.hidden_size // decoder.num_attention_heads
    top = max(1, size // 4) if top is None else top
    entropies, scores = [], []
    heads = 0
    for number, ids in enumerate(texts, start=1):
        if len(ids) > 1:
            found = head_entropy_profile(
                model, {"input_ids": torch.tensor([list(ids)], device=model.device)}, what=what, top=top, normalize=True
            )  # [layers, heads]
            heads = found.shape[1]
            scores.append(found.exp().sum(1))
            entropies.append(found.unflatten(1, (kv_heads, -1)).mean(2))
        if progress is not None:
            progress(number)
    if not entropies:
        raise ValueError("UnComp is calibrated on texts of at least two tokens: there are none.")
    return plan_from(
        torch.stack(entropies),
        torch.stack(scores).mean(0),
        heads=heads,
        what=what,
        top=top,
        model=name,
        fingerprint=weights_fingerprint(model),
    )


def plan_from(entropies: torch.Tensor, layer_scores: torch.Tensor, **settings: Any) -> UnCompPlan:
    """A plan from measured entropies.

    Args:
        entropies: of every text, layer and key-value head, [texts, layers, kv heads].
        layer_scores: [layers].
        settings: further fields of the plan.
    """
    ranks = entropies.argsort(dim=-1, stable=True).argsort(dim=-1)
    votes = torch.nn.functional.one_hot(ranks, entropies.shape[-1]).sum(0)  # [layers, kv heads, ranks]
    return UnCompPlan(
        rank_votes=tuple(tuple(tuple(head) for head in layer) for layer in votes.tolist()),
        head_entropy=tuple(tuple(layer) for layer in entropies.mean(0).tolist()),
        layer_scores=tuple(layer_scores.tolist()),
        texts=len(entropies),
        **settings,
    )


def group_sizes(heads: int, groups: int) -> list[int]:
    """Heads of every group, the lowest entropy first, which has one more where they cannot be even.

    Raises:
        ValueError: more groups than heads.
    """
    if groups > heads:
        raise ValueError(f"{heads} key-value heads cannot be put into {groups} groups: give at most {heads} budgets.")
    return [heads // groups + (group < heads % groups) for group in range(groups)]


def layer_stages(scores: Sequence[float], drop: float) -> list[int]:
    """The stage of every layer, from 0: a new one begins where the score falls by more than `drop`."""
    stages = [0]
    for before, score in pairwise(scores):
        stages.append(stages[-1] + (score - before < -drop))
    return stages


def kept_tokens(length: int, stage: int, stages: int, min_tokens: int) -> int:
    """Tokens of a prompt that run in the layers of a stage: all in the first, `min_tokens` in the last.

    Args:
        length: N, tokens of the prompt.
        stage: c, from 0.
        stages: C.
        min_tokens: S_min.
    """
    if stage == 0 or length <= min_tokens:  # rounding would take a few tokens from the first stage, too
        return length
    return min_tokens + (length - min_tokens) // (stages - 1) * (stages - 1 - stage)
