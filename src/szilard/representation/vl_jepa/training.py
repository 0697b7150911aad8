"""Training VL-JEPA: pictures alone, captions without a question, questions, and last the decoder.

Chen et al., "VL-JEPA", arXiv:2512.10942, section 4: stage 1 on captions without a query at a constant learning rate,
stage 2 on questions and answers, captions among them, at a falling one. Before them, where there is no vision model,
our patch encoder learns from the pictures alone; behind them the Y-Decoder learns to read the Y-Encoder's embeddings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from szilard.engines.loading import check_device
from szilard.representation.vl_jepa.config import VLJEPAConfig
from szilard.representation.vl_jepa.decoder import DecoderCollator, YDecoder, YDecoderObjective
from szilard.representation.vl_jepa.model import VLJEPA, LearnableTemperature
from szilard.representation.vl_jepa.objective import Collator, VLJEPAObjective
from szilard.representation.vl_jepa.predictor import VLJEPAPredictor
from szilard.representation.vl_jepa.scenes import Example, word_tokenizer
from szilard.representation.vl_jepa.text_encoder import TextEncoder
from szilard.representation.vl_jepa.training_data import Both, Measured, pair_data, scene_data
from szilard.representation.vl_jepa.vision_encoder import PatchEncoder, TransformersVision
from szilard.representation.vl_jepa.vision_pretraining import MaskedPatchObjective
from szilard.training.loop import Batch, uses_fsdp
from szilard.training.recipe import Stage, run_recipe
from szilard.training.run_folder import check_ours, own_run
from szilard.whole_folder import check_folder, write_whole

_MADE_FOR = "# szilard training of VL-JEPA"
_STAGES = ("vision", "captions", "questions", "decoder")
_FILES = ("training.yaml", "held-out.yaml", "config.json", "model.safetensors")
_DECODER = "y_decoder"


def build(config: VLJEPAConfig, words: Sequence[str]) -> VLJEPA:
    """The model that a config describes; small parts are new and drawn from its seed.

    Args:
        config: the settings.
        words: of captions, questions and answers; the small parts' tokens.
    """
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        own = word_tokenizer(words) if not (config.predictor and config.text_encoder) else None
        x_encoder: Any
        if config.vision:
            x_encoder = TransformersVision.from_pretrained(config.vision)
        else:
            x_encoder = PatchEncoder(config.size, config.patch, config.vision_width, config.vision_layers, config.heads)
        if config.predictor:
            predictor = VLJEPAPredictor.from_causal_lm(
                config.predictor,
                visual_width=x_encoder.width,
                layers=config.chosen_layers,
                embed_dim=config.embed_dim,
                bidirectional=config.bidirectional,
            )
        else:
            predictor = VLJEPAPredictor.from_scratch(
                len(own),  # type: ignore[arg-type]
                own.pad_token_id,  # type: ignore[union-attr]
                visual_width=x_encoder.width,
                width=config.width,
                layers=config.layers,
                heads=config.heads,
                embed_dim=config.embed_dim,
                bidirectional=config.bidirectional,
            )
        if config.text_encoder:
            y_encoder = TextEncoder.from_pretrained(config.text_encoder, embed_dim=config.embed_dim)
        else:
            y_encoder = TextEncoder.from_scratch(
                len(own),  # type: ignore[arg-type]
                own.pad_token_id,  # type: ignore[union-attr]
                width=config.text_width,
                layers=config.text_layers,
                heads=config.heads,
                embed_dim=config.embed_dim,
            )
        return VLJEPA(
            x_encoder,
            predictor,
            y_encoder,
            query_tokenizer=_tokenizer(config.predictor, own),
            answer_tokenizer=_tokenizer(config.text_encoder, own),
            y_lr_mult=config.y_lr_mult,
            temperature=LearnableTemperature(config.temperature),
            max_tokens=512 if config.text_encoder else 64,
        )


def _tokenizer(name: str, own: Any) -> Any:
    if not name:
        return own
    from transformers import AutoTokenizer

    found = AutoTokenizer.from_pretrained(name)
    if found.pad_token_id is None:
        found.pad_token = found.eos_token
    return found


def stages(
    model: VLJEPA,
    decoder: YDecoder | None,
    data: Measured,
    config: VLJEPAConfig,
) -> list[Stage]:
    """The stages of a training; those without steps or data are left out."""

    def stage(name: str, objective: Callable[[], nn.Module], examples: Any, collate: Any, **changes: Any) -> Stage:
        measure = changes.pop("measure", None)
        settings = replace(config, **changes)
        return Stage(name, settings, objective, lambda: examples, collate, None, measure, settings.evaluate_every)

    def objective() -> nn.Module:
        return VLJEPAObjective(
            model,
            learning_rate=config.learning_rate,
            weight_decay=config.weight_decay,
            loss=config.loss,
            duplicates=config.duplicates,
        )

    found = []
    some: Any = data.captions if data.captions is not None else data.questions
    if config.vision_steps and isinstance(model.x_encoder, PatchEncoder):
        encoder = model.x_encoder

        def pictures() -> nn.Module:
            with torch.random.fork_rng():
                torch.manual_seed(config.seed)
                return MaskedPatchObjective(encoder)

        # It learns in this stage and is frozen again behind it.
        found.append(
            replace(stage("vision", pictures, some, pixels_only, steps=config.vision_steps), learns=lambda name: True)
        )
    collate = Collator(model)
    if data.captions is not None:
        found.append(stage("captions", objective, data.captions, collate, schedule="constant", measure=data.measure))
    if data.questions is not None:
        found.append(stage("questions", objective, data.questions, collate, measure=data.measure))
    if decoder is not None:
        reads: Any = Both([one for one in (data.captions, data.questions) if one is not None])
        found.append(
            stage(
                "decoder",
                lambda: YDecoderObjective(decoder, model, noise=config.decoder_noise),
                reads,
                DecoderCollator(decoder, model),
                steps=config.decoder_steps,
            )
        )
    return found


def pixels_only(examples: Sequence[Example]) -> Batch:
    """{"pixels"} of examples: the text is not looked at."""
    return {"pixels": torch.stack([example.pixels for example in examples])}


def train_vl_jepa(
    config: VLJEPAConfig,
    folder: Path,
    *,
    data: Path | None = None,
    restart: bool = False,
    device: str | None = None,
) -> dict[str, float]:
    """Train VL-JEPA and its decoder; a stopped run goes on.

    Args:
        config: the settings.
        folder: gets the model, its card, `y_decoder/`, `training.yaml`, `held-out.yaml`, and a folder per stage.
        data: records with "image", "answer" and, for questions, "prompt"; None: generated scenes.
        restart: forget an earlier run in the folder.
        device: "cpu" keeps a GPU out of it; None: what there is.

    Returns:
        What is measured at the end.

    Raises:
        ValueError: unusable data or parts, or a folder with another run.
    """
    if device is not None:
        check_device(device)
    if uses_fsdp():
        raise ValueError("evaluations run whole parts, which FSDP would take apart: train with DDP.")
    check_folder(folder)
    check_ours(folder, _MADE_FOR, (*_STAGES, _DECODER, *_FILES))
    found = scene_data(config) if data is None else pair_data(data, config)
    text = f"{_MADE_FOR}\n# data: {found.digest}\n{config.to_yaml()}"
    folders, other = (*_STAGES, _DECODER), "settings or data"
    with own_run(folder, text, folders=folders, files=_FILES, restart=restart, other=other, device=device) as processes:
        model = build(config, found.words)
        decoder = build_decoder(config, model, found.words) if config.decoder_steps else None
        results = run_recipe(stages(model, decoder, found, config), folder, device=device)
        metrics = {}
        for result in results.values():
            if result.evaluations:
                metrics = {name: value for name, value in result.evaluations[-1].items() if name != "step"}
        if processes.is_main_process:
            _write(model, decoder, metrics, config, data, folder)
    return metrics


def build_decoder(config: VLJEPAConfig, model: VLJEPA, words: Sequence[str]) -> YDecoder:
    """A small Y-Decoder; its tokens are the words of the data."""
    with torch.random.fork_rng():
        torch.manual_seed(config.seed + 1)
        return YDecoder.from_scratch(
            word_tokenizer(words),
            embed_dim=model.embed_dim,
            width=config.text_width,
            layers=config.text_layers,
            heads=config.heads,
        )


def _write(
    model: VLJEPA,
    decoder: YDecoder | None,
    metrics: dict[str, float],
    config: VLJEPAConfig,
    data: Path | None,
    folder: Path,
) -> None:
    """Card, held-out numbers, decoder, and last the model."""
    source = f"{config.scenes} generated scenes" if data is None else data.name
    model.trained_on = {"data": source, "seed": config.seed, "held out": metrics}
    write_whole(folder / "held-out.yaml", yaml.safe_dump(metrics))
    if decoder is not None:
        decoder.trained_on = {"data": source, "seed": config.seed}
        decoder.save_pretrained(folder / _DECODER)
    model.save_pretrained(folder)
