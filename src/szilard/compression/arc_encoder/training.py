"""Training ARC-Encoder: pre-training on passages, fine-tuning on questions, and one more decoder for an encoder.

ARC-Encoder (Pilchen, Grave, Perez 2025, arXiv 2510.20535). The decoders are frozen: gradients flow through them to the
vectors and on to the projector, <Cont>, <Rec> and (but for a decoder that is added) all of the encoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from szilard.compression.arc_encoder.config import ArcConfig
from szilard.compression.arc_encoder.few_shot import FewShotObjective, Questions, read_subsets
from szilard.compression.arc_encoder.groups import Pooling
from szilard.compression.arc_encoder.model import ArcModel
from szilard.compression.arc_encoder.objective import ArcObjective, Interleaved, PassageObjective
from szilard.compression.arc_encoder.sides import usable_name
from szilard.compression.passages import as_examples, check_fits, read_questions
from szilard.engines import load
from szilard.engines.engine import Engine
from szilard.training.course import Course, split
from szilard.training.loop import NOTHING, uses_fsdp
from szilard.training.target import Target

_MEASURED = 8  # contexts on which the first scale is measured


def train_arc_encoder(
    engine: Engine,
    data: Path,
    config: ArcConfig,
    folder: Path,
    *,
    others: Sequence[Engine] = (),
    source: Engine | None = None,
    start: ArcModel | None = None,
    names: Sequence[str] | None = None,
    limit: int | None = None,
    restart: bool = False,
) -> dict[str, float]:
    """Train an encoder for one or several decoders and write it to a folder; a stopped run goes on.

    Args:
        engine: the decoder, on transformers; it stays as it is, bit for bit.
        data: texts, as `read_corpus` takes them; to fine-tune, questions, as `read_questions` takes them, from whose
            "subset" (where records name one) their examples are drawn.
        config: the settings.
        folder: gets the add-on, `training.yaml`, `metrics.jsonl`, `held-out.yaml` and checkpoints.
        others: further decoders, trained in turn with the first.
        source: the model that becomes the encoder; None: `config.encoder`, or the decoder's own.
        start: the add-on to begin with; None: `config.checkpoint`. It is trained in place.
        names: of the decoders in the add-on; None: `config.decoder_name` and the models' names.
        limit: only the first so many texts or questions.
        restart: forget an earlier run in the folder.

    Returns:
        On held-out data, see `PassageObjective.measure` and `FewShotObjective.measure`.

    Raises:
        ValueError: unusable data, decoders that the checkpoint does not serve, or other settings than the folder's
            unfinished run's.
    """
    if uses_fsdp():
        raise ValueError("the encoder is trained through a frozen decoder, which FSDP would take apart: use DDP.")
    if config.stage != "finetune":
        for one in (engine, *others):
            check_fits(one, config.window + config.before, config.target)
    questions = read_questions(data, limit=limit) if config.stage == "finetune" else []
    examples = as_examples(questions, engine.tokenizer) if questions else None
    with Course(engine, data, config, folder, limit=limit, restart=restart, examples=examples) as course:
        engines = [engine, *others]
        for other in others:
            Target(other)  # frozen
        arc, called = _beginning(config, engines, source, start, names)
        arc.pooling = _pooling(config, arc)
        longest = min(config.chunk or config.window, config.window)
        if longest > arc.encoder.context_window:
            raise ValueError(
                f"contexts of {longest} tokens are longer than the {arc.encoder.context_window} that the encoder reads "
                "at once: lower window, or set chunk."
            )
        arc.to(engine.device).requires_grad_(True)
        decoders = dict(zip(called, engines, strict=True))
        objective: ArcObjective
        if questions:
            asked = Questions(len(questions))
            pool, _ = split(asked.texts, config.held_out, config.seed)
            objective = FewShotObjective(arc, decoders, config, questions, read_subsets(data, len(questions)), pool)
            held = course.train(objective, asked, Questions.collate)
        else:
            passages = Interleaved(course.tokens(), config.window, config.target, config.before)
            if not len(passages):
                raise ValueError(NOTHING)
            objective = PassageObjective(arc, decoders, config)
            if config.match_scale:
                some = [passages[index]["context"] for index in range(min(_MEASURED, len(passages)))]
                for name, one in list(decoders.items()):
                    arc.match_scale(objective.for_encoder(some), name, one)
            collate: Any = Interleaved.collate  # lists of tensors, which the loop takes as well
            held = course.train(objective, passages, collate)
        if not course.leads:
            return {}
        measured: Any = objective
        metrics: dict[str, float] = measured.measure(held)
        course.finish(arc.eval(), metrics)
        return metrics


def _beginning(
    config: ArcConfig,
    engines: Sequence[Engine],
    source: Engine | None,
    start: ArcModel | None,
    names: Sequence[str] | None,
) -> tuple[ArcModel, list[str]]:
    """The add-on that is trained, and what the decoders are called in it.

    Raises:
        ValueError: no checkpoint where one is needed, two decoders of one name, or another number of names.
    """
    own = [config.decoder_name or usable_name(engines[0].name), *(usable_name(other.name) for other in engines[1:])]
    called = list(names) if names is not None else own
    if len(called) != len(engines) or len(set(called)) != len(called):
        raise ValueError(f"{len(engines)} decoders need as many different names, not {', '.join(called)}.")
    if config.stage == "pretrain":
        if source is None:
            source = load(config.encoder) if config.encoder else engines[0]
        made = ArcModel.made_of(
            source,
            dict(zip(called, engines, strict=True)),
            pooling=_pooling(config, None),
            truncate_layers=config.truncate_layers,
            bottleneck=config.bottleneck,
            attention=config.attention,
            queries=config.queries,
            specials=not config.instruct,
            seed=config.seed,
        )
        return made, called
    if start is None:
        if not config.checkpoint:
            raise ValueError(f"the stage {config.stage} begins with a trained encoder: give its folder as checkpoint.")
        start = ArcModel.from_pretrained(config.checkpoint)
    if config.stage == "add-decoder":
        for name, engine in zip(called, engines, strict=True):
            start.add_decoder(
                name, engine, bottleneck=config.bottleneck, specials=not config.instruct, seed=config.seed
            )
        return start, called
    chosen = [config.decoder_name or None, *([None] * (len(engines) - 1))] if names is None else names
    return start, [start.decoder_of(engine, name) for engine, name in zip(engines, chosen, strict=True)]


def _pooling(config: ArcConfig, arc: ArcModel | None) -> Pooling:
    if config.vectors is None and config.pooling_factor is None and arc is not None:
        return arc.pooling
    return Pooling((config.pooling_factor or 1,) * config.pooling_layers, config.vectors)
