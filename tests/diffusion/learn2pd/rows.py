"""Made-up rows: a position is final when its confidence is above a bound that depends on the position."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from szilard.diffusion.learn2pd.rows import BlockRows, RowWriter, rows_header

BLOCK = 6
BASE = {"name": "tiny", "fingerprint": "abc", "hidden_size": 8, "vocab_size": 50}
HEADER = rows_header(BASE, mask_token_id=48, block_length=BLOCK, collected={"prompts": "0123", "answer": 12})


def rows_of(prompt: int, count: int = 10) -> dict[str, Any]:
    """The rows of one prompt, as `RowWriter.add` takes them."""
    random = np.random.default_rng(prompt)
    confidence = random.random((count, BLOCK)).astype(np.float32)
    label = confidence > np.linspace(0.2, 0.8, BLOCK)
    return {"confidence": confidence, "label": label, "block": np.arange(count) // 5, "step": np.arange(count) % 5}


def filled(folder: Path, prompts: int = 30) -> BlockRows:
    """A folder with the rows of so many prompts."""
    with RowWriter(folder, HEADER) as writer:
        for prompt in range(prompts):
            writer.add(prompt, **rows_of(prompt))
    return BlockRows(folder)
