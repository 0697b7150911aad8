"""Questions about contexts in a model's tokens, as ComprExIT's second stage learns from them."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from szilard.compression.comprexit.config import ComprExITConfig
from szilard.compression.passages import read_questions
from szilard.engines.engine import Engine
from szilard.engines.prompt_parts import SEPARATOR, around_context
from szilard.training.hidden_states import Stretches

Ids = list[torch.Tensor]


class Questions(Stretches):
    """Each is {"context", "head", "prompt", "target"}, int64 [n]: the answer is the target, with EOS.

    Several contexts of a question are joined by blank lines. The tail of a context that is too long is kept. Questions
    that are, with their answers, longer than `target` tokens are left out.

    Args:
        file: as `read_questions` takes it.
        engine: whose tokens.
        config: the settings.
        begin: what stands in front of the context, unless the chat template says it.
        limit: only the first so many.

    Raises:
        ValueError: unusable records, or none that is short enough.
    """

    def __init__(
        self, file: Path, engine: Engine, config: ComprExITConfig, begin: list[int], *, limit: int | None = None
    ) -> None:
        self.items: list[dict[str, list[int]]] = []
        end = engine.tokenizer.eos_token_id
        for question in read_questions(file, limit=limit):
            if config.prompt_form == "chat":
                head, prompt = around_context(engine, question.prompt)
            else:
                asked = config.prompt_form.replace("{prompt}", question.prompt)
                head, prompt = begin, engine.tokenizer.encode(asked, add_special_tokens=False)
            # Paper: tokenised with the answer in training and without it in use; here: without it in both.
            space = "" if config.prompt_form == "chat" else " "
            answer = engine.tokenizer.encode(space + question.answer, add_special_tokens=False)
            answer += [] if end is None else [end]
            context = engine.tokenizer.encode(SEPARATOR.join(question.contexts), add_special_tokens=False)
            if context and len(prompt) + len(answer) <= config.target:
                parts = {"context": context[-config.context :], "head": head, "prompt": prompt, "target": answer}
                self.items.append(parts)
        if not self.items:
            raise ValueError(
                f"{str(file)!r} holds no question that is, with its answer, at most {config.target} tokens long: raise "
                "target."
            )
        self.texts = list(range(len(self.items)))

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {name: torch.tensor(ids, dtype=torch.long) for name, ids in self.items[index].items()}

    @staticmethod
    def collate(items: Sequence[dict[str, torch.Tensor]]) -> dict[str, Ids]:
        """{"contexts", "heads", "prompts", "targets"}: a list of int64 [n] each."""
        return {f"{name}s": [item[name] for item in items] for name in ("context", "head", "prompt", "target")}


@contextmanager
def question_corpus(questions: Questions) -> Iterator[Path]:
    """A file of the questions' tokens, contexts too, for as long as this is open: what `read_corpus` takes."""
    with tempfile.TemporaryDirectory(prefix="szilard-") as scratch:
        file = Path(scratch) / "questions.jsonl"
        with file.open("w", encoding="utf-8") as out:
            for item in questions.items:
                ids = [token for name in ("head", "context", "prompt", "target") for token in item[name]]
                out.write(json.dumps({"ids": ids}) + "\n")
        yield file
