"""Every compressor with settings and small random checkpoints that act on texts of a few words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

import szilard
from szilard.registry import make_compressor
from szilard.training.target import Target
from tests.compression.tiny_classifiers import bert_classifier, bert_tokenizer


def _mean_pool(engine) -> Any:
    from szilard.compression.mean_pool.modules import MeanPoolProjector

    torch.manual_seed(1)
    return szilard.MeanPool(MeanPoolProjector(Target(engine).base, layer=2, ratio=4, scale=0.4))


def _llmlingua2(engine) -> Any:
    from szilard.compression.llmlingua2.classifier import KeepClassifier

    return szilard.LlmLingua2(checkpoint=KeepClassifier(bert_classifier(), bert_tokenizer()), batch_size=2)


def _comprexit(engine) -> Any:
    return szilard.ComprExIT.from_causal_lm(engine, window=8, gate_width=8, metric_width=8, seed=1)


def _arc_encoder(engine) -> Any:
    return szilard.ArcEncoder.from_causal_lm(engine, truncate_layers=1, pooling_factor=4)


def _refrag(engine) -> Any:
    from szilard.compression.refrag.add_on import new_parts

    torch.manual_seed(1)
    parts = new_parts(Target(engine).base, engine.tokenizer, encoder="small", chunk=4, width=16)
    return szilard.Refrag(parts.eval(), policy="perplexity")


SMALL: dict[str, Callable[[Any], Any]] = {
    "llmlingua2": _llmlingua2,
    "selective-context": lambda engine: szilard.SelectiveContext(unit="word"),
    "mean-pool": _mean_pool,
    "comprexit": _comprexit,
    "arc-encoder": _arc_encoder,
    "refrag": _refrag,
}


def small_compressor(slug: str, engine) -> Any:
    """The compressor of a slug for the tiny engine."""
    return SMALL[slug](engine) if slug in SMALL else make_compressor(slug)
