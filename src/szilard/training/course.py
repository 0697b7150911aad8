"""What the training of every add-on has in common: its folder, its corpus, what is held out, and how it ends."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import PartialState
from torch import nn
from torch.utils.data import Dataset, Subset

from szilard.engines.engine import Engine
from szilard.training.add_on import AddOn
from szilard.training.config import TrainingConfig
from szilard.training.corpus import Example, digest, read_corpus
from szilard.training.hidden_states import HiddenStates, Stretches, Tokens, Windows, cache_hidden_states
from szilard.training.loop import NOTHING, Batch, fit
from szilard.training.run_folder import check_ours, claim
from szilard.training.target import Target
from szilard.whole_folder import held, write_whole

_FOLDERS = ("checkpoints", "features", "tensorboard")
_FILES = (
    *("training.yaml", "metrics.jsonl", "held-out.yaml", "units.parquet"),
    *("config.json", "model.safetensors", "README.md"),
)
_MADE_FOR = "# szilard training for"
_DATA = "# data: "


class Course:
    """One training in one folder, from its corpus to its add-on. A stopped one goes on where it was.

    A context manager: while it is open, no other process trains in the folder.

    Args:
        engine: the model, on transformers.
        data: texts, as `read_corpus` takes them.
        config: the settings, with `max_length`, `held_out` and `batch_size`.
        folder: gets the add-on, its card, `training.yaml`, `metrics.jsonl`, `held-out.yaml` and checkpoints.
        cache: where what the model says of the corpus is kept for further trainings; None: here, until the end.
        limit: only the first so many texts.
        restart: forget an earlier run in the folder.
        examples: the corpus, where it is no file of texts (questions about contexts); None: `data` is read.

    Attributes:
        target: the frozen model.
        examples: the corpus.
        leads: whether this process writes the files.

    Raises:
        ValueError: unusable data, or a folder with another run: other settings, data or weights, or a running one.
    """

    def __init__(
        self,
        engine: Engine,
        data: Path,
        config: Any,
        folder: Path,
        *,
        cache: Path | None = None,
        limit: int | None = None,
        restart: bool = False,
        examples: Sequence[Example] | None = None,
    ) -> None:
        torch.manual_seed(config.seed)
        self.target = Target(engine)
        self.config: Any = config
        self.folder, self.cache = folder, cache
        self.device = engine.device.type  # type: ignore[attr-defined]
        self.examples = list(read_corpus(data, engine, limit=limit) if examples is None else examples)
        longest = getattr(self.target.config, "max_position_embeddings", None)
        if examples is None and longest and config.window > longest:
            raise ValueError(
                f"stretches of {config.window} tokens are longer than the {longest} that {engine.name} reads: shorten "
                "them."
            )
        if examples is None and not len(Windows(self.tokens(), config.window)):
            raise ValueError(NOTHING)
        cpu = {"cpu": True} if self.device == "cpu" else {}
        self._processes = PartialState(timeout=timedelta(days=7), **cpu)  # others wait while the first reads the corpus
        self.leads = self._processes.is_main_process
        self._open = contextlib.ExitStack()
        if self.leads:
            with contextlib.ExitStack() as opened:
                self._claim(restart, opened)
                self._open = opened.pop_all()
        self._processes.wait_for_everyone()

    def __enter__(self) -> Course:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def _claim(self, restart: bool, opened: contextlib.ExitStack) -> None:
        """Take the folder for this run, or find that it is this run's."""
        base = self.target.base
        made_for = f"{_MADE_FOR} {base['name']} ({base['fingerprint']})\n{_DATA}{digest(self.examples)}\n"
        text = made_for + self.config.to_yaml()
        check_ours(self.folder, _MADE_FOR, (*_FOLDERS, *_FILES))
        self.folder.mkdir(parents=True, exist_ok=True)
        opened.enter_context(held(self.folder / ".lock", f"the folder {str(self.folder)!r}"))
        other = "settings or data, or of another model"
        claim(self.folder, text, folders=_FOLDERS, files=_FILES, restart=restart, other=other)

    def features(self, layer: int | str, progress: Callable[[int, int], None] | None) -> HiddenStates:
        """What the model says of the corpus, computed once; see `cache_hidden_states`."""
        with self._processes.main_process_first():
            return cache_hidden_states(
                self.target,
                self.examples,
                self.cache or self.folder / "features",
                layer=layer,
                max_length=self.config.max_length,
                progress=progress,
                precision=self.config.precision,
                batch_size=self.config.batch_size,
            )

    def tokens(self) -> Tokens:
        """The corpus alone, for trainings that run the model themselves."""
        return Tokens(self.target, self.examples, max_length=self.config.max_length)

    def train(self, objective: nn.Module, data: Stretches, collate: Callable[[list[Any]], Batch]) -> Dataset[Any]:
        """Train on what is not held out, and return what is (all of it, where nothing is)."""
        config: TrainingConfig = self.config
        learned, held = split(data.texts, self.config.held_out, config.seed)
        objective.train()
        fit(objective, Subset(data, learned), config, self.folder, collate=collate, device=self.device)
        return Subset(data, held or learned)

    def finish(self, add_on: AddOn, metrics: dict[str, float]) -> None:
        """Write the add-on and what it reaches, and give back what was kept for the way."""
        write_whole(self.folder / "held-out.yaml", yaml.safe_dump(metrics))
        add_on.save_pretrained(self.folder)
        if self.cache is None:
            shutil.rmtree(self.folder / "features", ignore_errors=True)


def split(texts: Sequence[int], share: float, seed: int) -> tuple[list[int], list[int]]:
    """Which stretches to learn from, and which to hold out.

    Whole texts are held out, so that nothing of them was learned; of a single text, stretches of it.

    Args:
        texts: the text that each stretch is of.
        share: of the texts that is held out; at least one, and one stays.
        seed: of the choice.
    """
    whose = texts if len(set(texts)) > 1 else range(len(texts))
    among = list(dict.fromkeys(whose))
    order = torch.randperm(len(among), generator=torch.Generator().manual_seed(seed)).tolist()
    held = min(max(1, round(share * len(among))), len(among) - 1) if share and among else 0
    chosen = {among[place] for place in order[:held]}
    learned = [index for index, text in enumerate(whose) if text not in chosen]
    return learned, [index for index, text in enumerate(whose) if text in chosen]
