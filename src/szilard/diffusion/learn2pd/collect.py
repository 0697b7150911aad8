"""Rows for Learn2PD's filter: what the model was sure of, round by round, and what turned out to be final.

For every prompt (Bao et al. 2025, arXiv 2509.25188): the model answers one token per step, which gives y; then the
oracle decodes again, and every round leaves a row per block: the confidences of all its columns, visible ones too, and
which predictions equal y. (Released rows come from prompts without a chat template, and their model may predict a mask;
here prompts are put as they are when decoding.)
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from szilard.diffusion.engine import DiffusionEngine
from szilard.diffusion.fill import fill
from szilard.diffusion.learn2pd.oracle import EgpOracle
from szilard.diffusion.learn2pd.rows import BlockRows, RowWriter, rows_header
from szilard.diffusion.look import Look
from szilard.diffusion.state import DenoisingState
from szilard.diffusion.unmask import TopKUnmask
from szilard.options import check_number


def collect_egp_rows(
    engine: DiffusionEngine,
    prompts: Sequence[Any],
    folder: Path,
    *,
    gen_length: int = 256,
    block_length: int = 32,
    batch_size: int = 8,
    raw: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> BlockRows:
    """Decode every prompt twice and keep the rows; a stopped run goes on where it was.

    Args:
        engine: of the masked diffusion model.
        prompts: as `engine.generate` takes them.
        folder: for the rows and nothing else.
        gen_length: columns of an answer.
        block_length: of a block, and so of a row; it divides gen_length.
        batch_size: prompts that are decoded together.
        raw: leave the chat template out.
        progress: called with prompts done and prompts in all.

    Returns:
        The rows, memory-mapped.

    Raises:
        ValueError: a block length that does not divide, or a folder with other rows.
    """
    check_number("gen_length", gen_length, low=1, integer=True)
    check_number("block_length", block_length, low=1, integer=True)
    check_number("batch_size", batch_size, low=1, integer=True)
    if gen_length % block_length:
        raise ValueError(
            f"block_length={block_length} does not divide gen_length={gen_length}: a filter never sees a shorter block."
        )
    told = hashlib.sha256(json.dumps([_plain(prompt) for prompt in prompts]).encode()).hexdigest()[:16]
    base = {
        "name": engine.name,
        "fingerprint": engine.fingerprint,
        "hidden_size": int(engine.model.config.get_text_config().hidden_size),
        "vocab_size": engine.vocab_size,
    }
    header = rows_header(
        base,
        mask_token_id=engine.config.mask_token_id,
        block_length=block_length,
        collected={"prompts": told, "gen_length": gen_length, "raw": raw},
    )
    with RowWriter(folder, header) as writer:
        wanted = [number for number in range(len(prompts)) if not writer.has(number)]
        for start in range(0, len(wanted), batch_size):
            numbers = wanted[start : start + batch_size]
            found = _rows(engine, [prompts[number] for number in numbers], gen_length, block_length, raw)
            for number, rows in zip(numbers, found, strict=True):
                writer.add(number, **rows)
            if progress is not None:
                progress(writer.prompts, len(prompts))
    return BlockRows(folder)


def _rows(
    engine: DiffusionEngine, prompts: Sequence[Any], length: int, block: int, raw: bool
) -> list[dict[str, np.ndarray[Any, Any]]]:
    """Confidence, label, block and step of every round, per prompt."""
    inputs = engine.encode(list(prompts), raw=raw)
    ids, real = (inputs[name].to(engine.device) for name in ("input_ids", "attention_mask"))
    answered = fill(engine.canvas_model, ids, TopKUnmask(block_length=block), length=length, real=real)
    reference = [answered.canvas(row) for row in range(len(prompts))]
    kept: list[list[tuple[Any, ...]]] = [[] for _ in prompts]

    def seen(state: DenoisingState, look: Look, wanted: torch.Tensor) -> None:
        confidence, label = look.confidence.float().cpu().numpy(), (look.tokens == wanted).cpu().numpy()
        for at, row in enumerate(look.rows.tolist()):
            kept[row].append((confidence[at], label[at], int(look.number[at]), int(look.step[at])))

    fill(engine.canvas_model, ids, EgpOracle(reference, seen, block_length=block), length=length, real=real)
    names = ("confidence", "label", "block", "step")
    return [dict(zip(names, map(np.array, zip(*rows, strict=True)), strict=True)) for rows in kept]


def _plain(prompt: Any) -> Any:
    return prompt.tolist() if isinstance(prompt, torch.Tensor) else prompt
