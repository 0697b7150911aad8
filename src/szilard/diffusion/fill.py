"""From prompts to filled canvases, without a tokenizer: what engines and measurements share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import LogitsProcessorList

from szilard.decoding.recorder import TraceRecorder
from szilard.diffusion.cache import CanvasCache
from szilard.diffusion.canvas_model import CanvasModel
from szilard.diffusion.method import DiffusionMethod
from szilard.diffusion.state import DenoisingState


def canvases(
    prompts: torch.Tensor, real: torch.Tensor, answers: Sequence[Sequence[int]], fill: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompts and answers side by side.

    Args:
        prompts: int64 [batch, P], left-padded.
        real: [batch, P], 0 or False for padding.
        answers: one per prompt, mask ids where they are open; they may differ in length.
        fill: id of what is behind a shorter answer.

    Returns:
        The canvas, int64 [batch, P + G], and which of its columns are real, bool [batch, P + G].
    """
    longest = max(map(len, answers))
    padded = [list(answer) + [fill] * (longest - len(answer)) for answer in answers]
    there = [[True] * len(answer) + [False] * (longest - len(answer)) for answer in answers]
    device = prompts.device
    canvas = torch.cat([prompts, torch.tensor(padded, dtype=torch.long, device=device)], dim=1)
    return canvas, torch.cat([real.bool(), torch.tensor(there, device=device)], dim=1)


def fill(
    model: CanvasModel,
    prompts: torch.Tensor,
    method: DiffusionMethod,
    *,
    length: int | None = None,
    answers: Sequence[Sequence[int]] | None = None,
    real: torch.Tensor | None = None,
    cache: CanvasCache | None = None,
    temperature: float = 0.0,
    warpers: LogitsProcessorList | None = None,
    recorder: TraceRecorder | None = None,
    generator: torch.Generator | None = None,
    watch: Callable[[DenoisingState], None] | None = None,
    stop: Callable[[torch.Tensor], bool] | None = None,
    decode: Callable[[Any], None] | None = None,
) -> DenoisingState:
    """Fill a batch of canvases.

    Args:
        model: gives the logits.
        prompts: int64 [batch, P], left-padded.
        method: the rule.
        length: columns of every answer, all of them open.
        answers: or templates, one per prompt, mask ids where they are open.
        real: [batch, P], 0 or False for padding; None: no padding.
        cache: what is computed in a round; None: everything.
        temperature: of the proposals; 0: the likeliest token.
        warpers: filters of what is drawn from.
        recorder: of a trace.
        generator: source of draws.
        watch: called after every round.
        stop: of the ids of a filled beginning, whether the answer ends with them.
        decode: what runs in the place of the method's own loop (a pair of method and cache).

    Returns:
        The state: `generated_tokens()`, `rounds`, `cost`, and of every column its round, entropy and probability.
    """
    mask = model.config.mask_token_id
    if answers is None:
        if length is None:
            raise ValueError("fill needs the answer's length in columns, or templates (answers=...).")
        answers = [[mask] * length] * len(prompts)
    end = model.config.eos_token_id
    real = torch.ones_like(prompts, dtype=torch.bool) if real is None else real
    canvas, there = canvases(prompts, real, answers, mask if end is None else end)
    state = DenoisingState(
        model,
        canvas,
        there,
        prompts.shape[1],
        temperature=temperature,
        warpers=warpers,
        recorder=recorder,
        generator=generator,
        watch=watch,
    )
    state.stop_criterion = stop
    if cache is not None:
        state.use_cache(cache)
    (decode or method.decode)(state)
    state.record()
    return state
