"""szilard: information-aware inference. Measure the information, then spend the compute only where it is.

import szilard

engine = szilard.load()                                   # the embedded model, or a hub id, folder, *.gguf
result = engine.generate("Why is the sky blue?", method=szilard.Lead(), max_new_tokens=128)
model.generate(**inputs, custom_generate=szilard.Lead())  # plain transformers
"""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"

# Everything below is imported on first use: `import szilard` itself loads no model library.
_LAZY = {
    "load": "szilard.engines",
    "Engine": "szilard.engines",
    "Result": "szilard.engines",
    "methods": "szilard.registry",
    "make_method": "szilard.registry",
    "make_attention": "szilard.registry",
    "make_compressor": "szilard.registry",
    "Method": "szilard.decoding",
    "AttentionMethod": "szilard.attention",
    "Under": "szilard.decoding.under",
    "compress": "szilard.compression.door",
    "CompressedText": "szilard.compression.text",
    "SoftPrompt": "szilard.engines.prepared_context",
    "ContextStore": "szilard.compression.store",
    "CitationBlocker": "szilard.decoding.citation_blocker",
    "HyperfitConfig": "szilard.training.hyperfitting.config",
    "build_hyperfit_dataset": "szilard.training.hyperfitting.data",
    "evaluate_open_ended": "szilard.training.hyperfitting.open_ended",
    "hyperfit": "szilard.training.hyperfitting.recipe",
    "ConceptPairs": "szilard.representation.concept_sae.pairs",
    "ConceptProbe": "szilard.representation.concept_sae.probe",
    "concept_alignment": "szilard.representation.concept_sae.alignment",
    "concept_states": "szilard.representation.concept_sae.states",
    "evaluate_sae": "szilard.representation.concept_sae.evaluation",
    "InformationKoopman": "szilard.representation.koopman.model",
    "ActivationStore": "szilard.representation.concept_sae.store",
    "harvest_activations": "szilard.representation.concept_sae.harvest",
    "SparseAutoencoder": "szilard.representation.concept_sae.autoencoders",
    "TopKSae": "szilard.representation.concept_sae.autoencoders",
    "BatchTopKSae": "szilard.representation.concept_sae.autoencoders",
    "JumpReluSae": "szilard.representation.concept_sae.autoencoders",
    "PAnnealSae": "szilard.representation.concept_sae.autoencoders",
    "StructuredSparseAutoencoder": "szilard.representation.concept_sae.structured",
    "load_sae": "szilard.representation.concept_sae.kinds",
    "train_sae": "szilard.representation.concept_sae.training",
    "VLJEPA": "szilard.representation.vl_jepa.model",
    "VLJEPAPredictor": "szilard.representation.vl_jepa.predictor",
    "YDecoder": "szilard.representation.vl_jepa.decoder",
    "train_vl_jepa": "szilard.representation.vl_jepa.training",
    "SelectiveDecoder": "szilard.representation.vl_jepa.selective",
    "segment_stream": "szilard.representation.vl_jepa.segments",
    "FEDSConfig": "szilard.codecs.feds",
    "FEDSTrainer": "szilard.codecs.feds",
    "channel_entropy": "szilard.codecs.feds",
    "select_channels": "szilard.codecs.feds",
    "train_feds": "szilard.codecs.feds",
    "LatentQuantizer": "szilard.representation.qlae",
    "LatentAutoencoder": "szilard.representation.qlae",
    "QLAE": "szilard.representation.qlae",
    "train_qlae": "szilard.representation.qlae",
    "MLICv2": "szilard.codecs.mlicv2",
    "MLICv2Config": "szilard.codecs.mlicv2",
    "open_codec": "szilard.codecs.opening",
    "PillowCodec": "szilard.codecs.pillow_codec",
    "RDCurve": "szilard.codecs.rd_curves",
    "bd_psnr": "szilard.codecs.rd_curves",
    "bd_rate": "szilard.codecs.rd_curves",
    "evaluate_codecs": "szilard.codecs.evaluation",
    "LVRAE": "szilard.representation.lv_rae.model",
    "LVRAEConfig": "szilard.representation.lv_rae.config",
    "LVRAETraining": "szilard.representation.lv_rae.config",
    "train_lv_rae": "szilard.representation.lv_rae.training",
    "RobustDecoderTrainer": "szilard.representation.lv_rae.training",
    "decoder_sensitivity": "szilard.representation.lv_rae.sensitivity",
    "DecodingState": "szilard.decoding",
    "Trace": "szilard.decoding",
    "Cost": "szilard.decoding",
}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    from szilard.registry import CLASSES, methods

    if name in CLASSES:
        return methods()[CLASSES[name]].cls
    raise AttributeError(f"module 'szilard' has no attribute {name!r}")


def __dir__() -> list[str]:
    from szilard.registry import CLASSES

    return sorted([*globals(), *_LAZY, *CLASSES])
