"""A tiny model and sequences that it can learn by heart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from szilard.training.hyperfitting.config import HyperfitConfig
from szilard.training.hyperfitting.data import HyperfitData, build_hyperfit_dataset
from tests.conftest import CONFIGS, tiny_tokenizer

SMALL = HyperfitConfig(
    num_sequences=12,
    seq_len=16,
    validation_sequences=4,
    validation_generations=2,
    context_length=6,
    epochs=4.0,
    batch_size=4,
    learning_rate=3e-3,
    validation_freq=3,
    save_every=4,
    log_every=2,
)


def fresh(architecture: str = "llama", seed: int = 0, **changes: Any) -> Any:
    """A random float32 model of its own, to be trained."""
    config = CONFIGS[architecture]()
    for name, value in changes.items():
        setattr(config, name, value)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config).eval()


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in model.state_dict().items()}


@pytest.fixture
def rows() -> list[list[int]]:
    return torch.randint(8, 97, (24, 20), generator=torch.Generator().manual_seed(1)).tolist()


@pytest.fixture
def data(rows) -> HyperfitData:
    return build_hyperfit_dataset(rows, tiny_tokenizer(), SMALL)


@pytest.fixture
def tokenizer() -> Any:
    return tiny_tokenizer()


@pytest.fixture
def killed_at(monkeypatch) -> Callable[[int], None]:
    """Make the next training stop dead when it logs this step."""
    from szilard.training import loop

    def at(step: int) -> None:
        def dies(self: Any, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == step:
                raise KeyboardInterrupt

        monkeypatch.setattr(loop._Bar, "on_log", dies)

    return at
