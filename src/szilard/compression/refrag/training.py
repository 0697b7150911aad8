"""Training REFRAG, one stage at a time; each writes an add-on that the next goes on from.

1. reconstruction: a context is written again from its chunk vectors. Encoder and projection learn; decoder frozen.
2. cpt: what follows a compressed context. Everything learns. With `keep` = 0.1, from the first cpt: some chunks, drawn
   at random, stay tokens, so that the decoder knows both.
3. policy: which chunks to expand, by GRPO. The policy learns.
4. sft: answers to questions about compressed contexts. Everything learns.

Where all weights of the decoder learn, the trained one is written to the folder `decoder` beside the add-on, which then
belongs to it: give that folder as the model of the next stage.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch.utils.data import Subset

from szilard.compression.passages import Question, as_examples, check_fits, read_questions
from szilard.compression.refrag.add_on import DECODER, RefragParts, new_parts
from szilard.compression.refrag.arrangement import expanded_count
from szilard.compression.refrag.config import CHUNK, ENCODER, RefragConfig
from szilard.compression.refrag.decoder_tuning import DecoderTuning
from szilard.compression.refrag.objective import ReadingObjective
from szilard.compression.refrag.policy_objective import PolicyObjective
from szilard.compression.refrag.readings import Readings, answers, continuations, reconstructions
from szilard.engines.engine import Engine
from szilard.training.course import Course, split
from szilard.training.loop import planned_steps, uses_fsdp

_TEXTS = 32  # of whose chunks the projection's first scale is taken


def train_refrag(
    engine: Engine,
    data: Path,
    config: RefragConfig,
    folder: Path,
    *,
    cache: Path | None = None,
    limit: int | None = None,
    restart: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, float]:
    """Train one stage and write the add-on to a folder; a stopped run goes on where it was.

    Args:
        engine: the decoder, on transformers; it has its own weights again afterwards.
        data: texts, as `read_corpus` takes them; for sft questions, as `read_questions` does.
        config: the settings.
        folder: gets the add-on, its card, `training.yaml`, `metrics.jsonl`, `held-out.yaml` and checkpoints; where all
            of the decoder learns, also `decoder`.
        cache, progress: not used; no hidden states are computed beforehand.
        limit: only the first so many texts.
        restart: forget an earlier run in the folder.

    Returns:
        See `ReadingObjective.measure` and `PolicyObjective.measure`.

    Raises:
        ValueError: unusable data, an earlier stage of another decoder, or other settings than the folder's unfinished
            run's.
    """
    if uses_fsdp():
        raise ValueError("this feeds vectors into the decoder, which FSDP would take apart: train it with DDP.")
    started = None if config.start is None else RefragParts.from_pretrained(config.start)
    if started is not None:
        if config.chunk not in (None, started.chunk):
            raise ValueError(f"{config.start!r} has chunks of {started.chunk}, not {config.chunk}: leave chunk out.")
        started.check_base(
            vocab_size=engine.vocab_size, hidden_size=None, name=engine.name, fingerprint=engine.fingerprint
        )
    chunk = (config.chunk or CHUNK) if started is None else started.chunk
    if config.context < chunk:
        raise ValueError(f"context={config.context} is less than a chunk of {chunk}: raise it.")
    most = expanded_count(config.share, config.context // chunk)
    if config.stage == "policy" and config.gradient_accumulation > 1:
        raise ValueError("the policy takes its steps on one batch each: leave gradient_accumulation out, raise group.")
    if config.stage == "policy" and most >= config.context // chunk:
        raise ValueError(f"keep={config.share} expands every chunk, so there is nothing to choose: lower keep.")
    if config.stage == "policy" and not most:
        raise ValueError(
            f"keep={config.share} of {config.context // chunk} chunks is less than one, so there is nothing to choose: "
            "raise keep or context."
        )
    if config.stage != "sft":
        written = config.context if config.stage == "reconstruction" else config.target
        check_fits(engine, math.ceil(config.context / chunk), written)
    context = config.context // chunk * chunk
    config = replace(config, context=context, window=max(8, min(config.window, context)))
    questions = read_questions(data, limit=limit) if config.stage == "sft" else []
    examples = as_examples(questions, engine.tokenizer) if questions else None
    with Course(engine, data, config, folder, limit=limit, restart=restart, examples=examples) as course:
        if any(example.images for example in course.examples):
            raise ValueError("refrag learns from texts: leave out the records with pictures.")
        readings = _readings(course, questions, engine, config)
        base = course.target.base
        parts = started or new_parts(
            base,
            engine.tokenizer,
            encoder=config.encoder or ENCODER,
            chunk=chunk,
            pooling=config.pooling,
            width=config.encoder_width,
            layers=config.encoder_layers,
        )
        learned, held = split(readings.texts, config.held_out, config.seed)
        samples = planned_steps(len(learned), config) * config.gradient_accumulation * config.batch_size
        kind = PolicyObjective if config.stage == "policy" else ReadingObjective
        parts.to(course.target.model.device)
        with DecoderTuning(course.target, config.tunes, config.rank, parts.changes) as tuning:
            parts.changes = None  # they are in the decoder, or trained there
            objective = kind(parts, tuning, course.target, config, samples)
            if started is None:
                first = objective.chunked([readings[index]["contexts"] for index in learned[:_TEXTS]])
                texts = [text for row in first for chunks in row for text in chunks.texts]
                ids = torch.cat([chunks.ids for row in first for chunks in row])
                parts.match_scale(texts, objective.embed(ids))
            objective.eval()
            objective.measure_bounds(Subset(readings, held or learned))
            left = course.train(objective, readings, Readings.collate)
            if not course.leads:
                return {}
            metrics = objective.measure(left)
            made = parts.cpu().remade(tuning.written(folder / DECODER), tuning.changes())
        course.finish(made, metrics)
        return metrics


def _readings(course: Course, questions: Sequence[Question], engine: Engine, config: RefragConfig) -> Readings:
    if config.stage == "sft":
        return answers(questions, engine, config.context)
    tokens = course.tokens()
    if config.stage == "reconstruction":
        return reconstructions(tokens, config.context, engine.tokenizer)
    return continuations(tokens, config.context, config.target, engine.tokenizer)
