"""What was measured of a compressor, and of a compressor with a predictor."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from szilard.analysis.agentic_mi.compute import api_cost, flops_of_reading, flops_per_generation
from szilard.decoding.cost import ModelSize
from szilard.information.mutual_information import MutualInformation

if TYPE_CHECKING:
    from szilard.analysis.agentic_mi.predict import Answers
    from szilard.analysis.agentic_mi.sources import Compression


@dataclass(frozen=True)
class InformationReport:
    """I(X;Z) (or I(X;Z|Q)) of one compressor in the eyes of one scorer.

    Attributes:
        compressor, scorer: names.
        scorer_is_compressor: whether the model that wrote the texts also scored them. If not, what is measured is how
            well the scorer tells the source from the text.
        information: the estimate with its terms, ceiling, saturation and error, in nats.
        matrix: log p(z_ij | x_l), nats, float64 [contexts, samples, competitors].
        own: the column of each context itself.
        per_seed: unclipped nats of every seed.
        compressions: the texts, [contexts][samples].
        scorer_tokens: their lengths in the scorer's tokens, [contexts][samples].
        conditional: whether a query was held fixed (I(X;Z|Q)).
        size: of the model that wrote, or None.
    """

    compressor: str
    scorer: str
    scorer_is_compressor: bool
    information: MutualInformation
    matrix: torch.Tensor
    own: tuple[int, ...]
    per_seed: tuple[float, ...]
    compressions: tuple[tuple[Compression, ...], ...]
    scorer_tokens: tuple[tuple[int, ...], ...]
    conditional: bool
    size: ModelSize | None = field(default=None, repr=False)

    @property
    def nats(self) -> float:
        """The estimate, clipped at 0."""
        return self.information.nats

    @property
    def bits(self) -> float:
        """The estimate in bits, clipped at 0."""
        return self.information.bits

    @property
    def raw_bits(self) -> float:
        """The estimate in bits, not clipped."""
        return self.information.raw / math.log(2)

    @property
    def ceiling_bits(self) -> float:
        """log2 of the contexts that compete; estimates with other ceilings cannot be compared."""
        return self.information.ceiling_bits

    @property
    def saturation(self) -> float:
        """Share of the terms at the ceiling."""
        return self.information.saturation

    @property
    def standard_error(self) -> float:
        """Of the estimate, nats, by bootstrap over contexts."""
        return self.information.standard_error

    @property
    def standard_error_bits(self) -> float:
        """The same in bits."""
        return self.standard_error / math.log(2)

    @property
    def length(self) -> float:
        """L: mean tokens of a text under the compressor's tokenizer (the scorer's, for texts that were given)."""
        return _mean(
            of_scorer if one.tokens is None else one.tokens
            for row, lengths in zip(self.compressions, self.scorer_tokens, strict=True)
            for one, of_scorer in zip(row, lengths, strict=True)
        )

    @property
    def scorer_length(self) -> float:
        """Mean tokens of a text under the scorer's tokenizer: the same unit for all compressors."""
        return _mean(length for row in self.scorer_tokens for length in row)

    @property
    def bits_per_token(self) -> float:
        """R = I / L: the mean information over the mean length, not the mean of ratios."""
        return self.bits / self.length if self.length else 0.0

    @property
    def bits_per_scorer_token(self) -> float:
        """R with the lengths of `scorer_length`."""
        return self.bits / self.scorer_length if self.scorer_length else 0.0

    @property
    def empty(self) -> int:
        """Texts without a word; they are scored like the others."""
        return sum(not one.text.strip() for row in self.compressions for one in row)

    @property
    def truncated(self) -> int:
        """Texts that the length limit cut off; they are scored without an end of text."""
        return sum(not one.ended for row in self.compressions for one in row)

    @property
    def texts(self) -> list[list[str]]:
        """[contexts][samples]."""
        return [[one.text for one in row] for row in self.compressions]

    @property
    def flops(self) -> float | None:
        """FLOPs per generation, without reading; None where no model wrote."""
        if self.size is None:
            return None
        prompt = _mean(one.prompt_tokens for row in self.compressions for one in row)
        return flops_per_generation(self.size, prompt, self.length)

    @property
    def flops_of_reading(self) -> float | None:
        """FLOPs of reading a context with its request; None where no model wrote."""
        if self.size is None:
            return None
        return flops_of_reading(self.size, round(_mean(one.prompt_tokens for row in self.compressions for one in row)))

    def to_dict(self) -> dict[str, Any]:
        """For JSON: figures, without texts and matrix. What is undefined is None."""
        contexts, samples, competitors = self.matrix.shape
        values: dict[str, Any] = {
            "compressor": self.compressor,
            "scorer": self.scorer,
            "scorer_is_compressor": self.scorer_is_compressor,
            "conditional": self.conditional,
            "contexts": contexts,
            "samples": samples,
            "competitors": competitors,
            "nats": self.nats,
            "raw_nats": self.information.raw,
            "standard_error": self.standard_error,
            "per_seed": list(self.per_seed),
        }
        names = ["bits", "ceiling_bits", "saturation", "length", "bits_per_token", "scorer_length"]
        names += ["bits_per_scorer_token", "empty", "truncated", "flops", "flops_of_reading"]
        values |= {name: getattr(self, name) for name in names}
        return {
            name: None if isinstance(value, float) and math.isnan(value) else value for name, value in values.items()
        }


@dataclass(frozen=True)
class Point:
    """A compressor with a predictor: what it takes and what it gives, per question.

    Attributes:
        compressor, predictor: names; without a predictor no distortion is known.
        bits, ceiling_bits: of the compressor.
        length: tokens of a compression.
        rate: bits per token.
        distortion: 1 - accuracy, or nats per token of the continuation.
        error: standard error of the distortion.
        tokens: read and written by the predictor.
        flops: reading the context, writing the compression, and all that the predictor does; a compressor that is no
            model counts as nothing.
        cost: of the predictor's tokens, in the money of the prices; None without prices.
    """

    compressor: str
    predictor: str | None
    bits: float
    ceiling_bits: float
    length: float
    rate: float
    distortion: float | None
    error: float | None
    tokens: float | None
    flops: float
    cost: float | None

    @property
    def pair(self) -> str:
        """Compressor and predictor, for a sentence."""
        return self.compressor if self.predictor is None else f"{self.compressor} with {self.predictor}"


def point(
    report: InformationReport, answers: Answers | None = None, *, prices: tuple[float, float] | None = None
) -> Point:
    """A point of the rate-distortion picture.

    Args:
        report: of the compressor.
        answers: of a predictor on its texts.
        prices: of the predictor's tokens, per million: in, out.
    """
    flops = (report.flops or 0.0) + (report.flops_of_reading or 0.0)
    spent = None
    if answers is not None:
        flops += answers.flops
        spent = None if prices is None else api_cost(answers.tokens_in, answers.tokens_out, *prices)
    return Point(
        compressor=report.compressor,
        predictor=None if answers is None else answers.predictor,
        bits=report.bits,
        ceiling_bits=report.ceiling_bits,
        length=report.length,
        rate=report.bits_per_token,
        distortion=None if answers is None else answers.distortion,
        error=None if answers is None else answers.standard_error,
        tokens=None if answers is None else answers.tokens_in + answers.tokens_out,
        flops=flops,
        cost=spent,
    )


def _mean(values: Any) -> float:
    found = list(values)
    return sum(found) / len(found) if found else 0.0
