"""Sampling with the usual filters: temperature, top-k, top-p, min-p, typical."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from transformers import LogitsProcessorList
from transformers.generation import logits_process as hf

from szilard.decoding.method import Method
from szilard.decoding.plain import plain_decode
from szilard.decoding.state import DecodingState
from szilard.decoding.warpers import without_warpers
from szilard.options import check_number


@dataclass(frozen=True)
class Sampling(Method):
    """x_t ~ filter(softmax(z_t / T)). The filters run in transformers' own order and with its own classes.

    Attributes:
        temperature: T; > 0.
        top_k: keep the k likeliest tokens; 0: all.
        top_p: keep the smallest set with this mass (nucleus, arXiv 1904.09751); 1: all.
        min_p: keep tokens with at least this share of the likeliest one's probability (arXiv 2407.01082); 0: all.
        typical_p: locally typical sampling (arXiv 2202.00666), mass kept; 1: all.
        seed: own random stream for the draws; None: PyTorch's default generator, as in `generate`.
    """

    slug: ClassVar[str] = "sampling"
    paper: ClassVar[str] = "Holtzman et al. 2020 (arXiv 1904.09751) and the filters named in the class"

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        check_number("temperature", self.temperature, low=1e-6)
        check_number("top_k", self.top_k, low=0, integer=True)
        check_number("top_p", self.top_p, low=0, high=1)
        check_number("min_p", self.min_p, low=0, high=1)
        check_number("typical_p", self.typical_p, low=1e-6, high=1)
        check_number("seed", self.seed, low=0, high=2**63 - 1, integer=True, optional=True)

    @classmethod
    def neutral(cls) -> Sampling:
        """No filter, temperature 1: plain sampling."""
        return cls()

    def decode(self, state: DecodingState) -> None:
        """The plain loop with this method's filters in place of the run's own."""
        processors = without_warpers(state.logits_processor)
        processors.extend(self.warpers())
        generator = None
        if self.seed is not None:
            generator = torch.Generator(device=state.device).manual_seed(self.seed)
        plain_decode(state, processors=processors, do_sample=True, generator=generator)

    def warpers(self) -> LogitsProcessorList:
        """The filters that this setting switches on."""
        filters = LogitsProcessorList()
        if self.temperature != 1.0:
            filters.append(hf.TemperatureLogitsWarper(float(self.temperature)))
        if self.top_k > 0:
            filters.append(hf.TopKLogitsWarper(self.top_k))
        if self.top_p < 1.0:
            filters.append(hf.TopPLogitsWarper(float(self.top_p)))
        if self.min_p > 0.0:
            filters.append(hf.MinPLogitsWarper(float(self.min_p)))
        if self.typical_p < 1.0:
            filters.append(hf.TypicalLogitsWarper(float(self.typical_p)))
        return filters
