"""EntropyPrune: after an early layer, only the visual tokens stay whose heads look at them most differently.

Wang, Wu, Ni, Yang, Liu, Yang, Zhou, Wen, He 2026, "EntropyPrune: Matrix Entropy Guided Visual Token Pruning for
Multimodal Large Language Models", EMNLP 2026 Findings, arXiv 2602.17196. Reference code: YahongWang1/EntropyPrune
(Apache-2.0).

    1. layers 0 .. K-1 run on the whole prompt
    2. I(i): the matrix entropy of visual token i over the heads of layer K-1, queries after rotation
       (`szilard.information.token_matrix_entropy`)
    3. the `keep` tokens with the greatest I stay, and all text; in their order, at their original positions
    4. layers K .. L-1 run on these, and their caches hold these
    5. decoding goes on from the original length and prunes nothing

K is the Entropy Collapse Layer: where the matrix entropy of all visual tokens together falls (`szilard analyze
visual-entropy`). "B tokens" in the paper means B in the mean over layers, `average_keep` here:
keep = int((L B - K N) / (L - K)), as `szilard.attention.token_budget` computes it.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from szilard.attention.entropy_prune_session import EntropyPruneSession
from szilard.attention.method import AttentionMethod
from szilard.attention.prompt_span import Span
from szilard.attention.token_budget import average_budget_to_keep
from szilard.options import check_choice, check_ids, check_number

SCORES = ("entropy", "released", "low-entropy", "attention", "random", "stride")
_DEFAULT_SHARE = 166 / 576  # what the paper's 192 of 576 in the mean leaves after K = 2 of 32 layers

_NO_LAYER = "layer={!r} is neither a whole number nor a file of `szilard analyze visual-entropy --output FILE`."


@dataclass(frozen=True)
class EntropyPrune(AttentionMethod):
    """Visual tokens of low matrix entropy leave the prompt after layer K. On text models: tokens of a span.

    Attributes:
        layer: K, layers that run on all tokens: 2 for LLaVA-1.5 and LLaVA-NeXT, 1 for Qwen2.5-VL (paper). Or a file
            that `szilard analyze visual-entropy --output FILE` wrote for this model, which names its collapse layer.
        keep: visual tokens of a row that stay after layer K: a whole number, or a share between 0 and 1 (rounded up);
            1.0 keeps everything. None: as `average_keep` says, or without that 166 of 576.
        average_keep: B, the same in the mean over all layers, as the paper counts.
        score: what stays. "entropy": the greatest matrix entropy (paper); "released": the greatest score of the
            released code, which is another one. Controls: "low-entropy": the smallest; "attention": what the last token
            attends to in layer K-1, mean over heads (FastV); "random"; "stride": evenly spaced.
        states: whose entropy: "query" or "key" states. Keys have fewer heads where heads are grouped.
        span: the tokens that may leave, as (start, length) in every row's own tokens from 0, or one such pair per row;
            None: those of the pictures and videos. The last token of a row always stays.
        seed: of "random"; a row's draw depends on its own tokens, not on the batch.
    """

    slug: ClassVar[str] = "entropy-prune"
    paper: ClassVar[str] = "Wang et al., EMNLP 2026 Findings, arXiv 2602.17196"

    layer: int | str = 2
    keep: int | float | None = None
    average_keep: int | float | None = None
    score: str = "entropy"
    states: str = "query"
    span: Span | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.layer, str):
            check_number("layer", self.layer, low=1, integer=True)
        elif not Path(self.layer).is_file():
            raise ValueError(_NO_LAYER.format(self.layer))
        for name in ("keep", "average_keep"):
            value = getattr(self, name)
            if isinstance(value, float):
                check_number(name, value, low=0, high=1)
                if not value:
                    raise ValueError(f"{name} must be above 0: at least one token of a picture stays.")
            else:
                check_number(name, value, low=1, integer=True, optional=True)
        if self.keep is not None and self.average_keep is not None:
            raise ValueError("give keep (after layer K) or average_keep (in the mean over layers), not both.")
        check_choice("score", self.score, SCORES)
        check_choice("states", self.states, ("query", "key"))
        object.__setattr__(self, "span", _checked_span(self.span))
        check_number("seed", self.seed, low=0, high=2**31 - 1, integer=True)

    @classmethod
    def neutral(cls) -> EntropyPrune:
        return cls(keep=1.0)

    @property
    def prunes(self) -> bool:
        """Whether anything can leave."""
        return not (isinstance(self.keep, float) and self.keep == 1)

    def session(self, model: Any) -> EntropyPruneSession:
        return EntropyPruneSession(self, model)

    def kept_of(self, tokens: int, layers: int, after: int) -> int:
        """How many of so many visual tokens stay after `after` of `layers` layers.

        Raises:
            ValueError: an average that is out of reach.
        """
        if self.average_keep is not None:
            average = self.average_keep if isinstance(self.average_keep, int) else self.average_keep * tokens
            return average_budget_to_keep(layers, after, tokens, average)
        if isinstance(self.keep, int):
            return min(self.keep, tokens)
        share = _DEFAULT_SHARE if self.keep is None else self.keep
        return min(tokens, math.ceil(share * tokens - 1e-9))

    def prune_after(self, layers: int, name: str) -> int:
        """K for a model of so many layers.

        Raises:
            ValueError: no such layer, or a file of another model.
        """
        after = self.layer if isinstance(self.layer, int) else _layer_of(self.layer, layers)
        if after >= layers:
            raise ValueError(
                f"layer must lie between 1 and {layers - 1} for the {layers} layers of {name}, not {after}."
            )
        return after


def _checked_span(span: Any) -> Span | None:
    """A span as tuples of whole numbers."""
    if span is None:
        return None
    if isinstance(span, (list, tuple)) and span and all(isinstance(pair, (list, tuple)) for pair in span):
        return tuple(_pair(pair) for pair in span)
    return _pair(span)


def _pair(pair: Any) -> tuple[int, int]:
    ids = check_ids("span", pair)
    if len(ids) != 2 or ids[0] < 0 or ids[1] < 1:
        raise ValueError(
            f"span is (start, length) with a start of at least 0 and a length of at least 1, not {pair!r}."
        )
    return ids[0], ids[1]


def _layer_of(path: str, layers: int) -> int:
    """The collapse layer that a profile names."""
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
        layer, count = int(found["layer"]), len(found["entropy"])
    except (OSError, ValueError, KeyError, TypeError):
        raise ValueError(_NO_LAYER.format(path)) from None
    if count != layers:
        raise ValueError(f"the profile {path!r} is of a model with {count} layers, this one has {layers}.")
    return layer
