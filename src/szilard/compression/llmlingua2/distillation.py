"""Pairs (original, compressed) to train LLMLingua-2 on: a teacher shortens a corpus, chunk by chunk.

Pan et al. 2024 (arXiv 2403.12968), section 3.1. The teacher is a chat model that may only drop words. It is not told
how far to go, and sees at most 512 tokens at a time, since given long texts it drops far too much. Sampled at
temperature 0.3. The instruction's five conditions are the paper's, in our words.

Pairs are a file of JSON lines, each on disk before the next is asked for, so that a killed run goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from szilard.compression.llmlingua2.rule_teacher import sentences
from szilard.engines.engine import Engine
from szilard.options import check_number
from szilard.records import read_objects
from szilard.training.corpus import read_texts
from szilard.whole_folder import held

CHUNK = 512  # tokens
TEMPERATURE = 0.3
INSTRUCTION = """\
Shorten the text below for a reader who is a language model. These rules hold without exception:
1. Only leave out words that carry little information.
2. Keep the remaining words in the order in which they stand.
3. Keep the remaining words exactly as they are written.
4. Use neither abbreviations nor emojis.
5. Put in no word and no sign of your own.
Be as brief as you can, and keep so much information that you could write the original again from what is left.
Answer with the shortened text and nothing else.

Text:
"""


class Teacher(Protocol):
    """Something that shortens texts."""

    @property
    def name(self) -> str:
        """What taught, for the record: a model with its weights, or rules."""

    def compress(self, texts: Sequence[str]) -> list[str]:
        """One compressed text for each."""


class EngineTeacher:
    """A chat model as the teacher.

    Args:
        engine: any; with a chat template.
        temperature: of sampling; 0: greedy.
        seed: of sampling.

    Raises:
        ValueError: an engine without a chat template.
    """

    def __init__(self, engine: Engine, *, temperature: float = TEMPERATURE, seed: int = 0) -> None:
        check_number("temperature", temperature, low=0)
        if not engine.has_chat_template:
            raise ValueError(f"{engine.name} has no chat template, and a teacher is given instructions: take another.")
        self.engine, self.temperature, self.seed = engine, temperature, seed

    @property
    def name(self) -> str:
        return f"{self.engine.name} ({self.engine.fingerprint}), temperature {self.temperature:g}, seed {self.seed}"

    def compress(self, texts: Sequence[str]) -> list[str]:
        """As many new tokens as the longest text has are enough, since words are only dropped."""
        longest = max(len(self.engine.tokenizer.encode(text, add_special_tokens=False)) for text in texts)
        drawn: dict[str, Any] = {"do_sample": True, "temperature": self.temperature, "top_p": 1.0, "top_k": 0}
        results = self.engine.generate(
            [INSTRUCTION + text for text in texts],
            max_new_tokens=longest + 16,
            trace=False,
            **(drawn | {"seed": self.seed} if self.temperature else {}),
        )
        return [result.text.strip() for result in results]


def chunks(text: str, count_tokens: Callable[[str], int], most: int = CHUNK) -> list[str]:
    """A text in pieces of whole sentences of at most so many tokens; a longer sentence is cut between words.

    Args:
        text: joined, the pieces give it again, but for white space at their ends.
        count_tokens: of a text.
        most: tokens of a piece.
    """
    check_number("most", most, low=1, integer=True)
    found, piece, size = [], "", 0
    for part in (part for sentence in sentences(text) for part in _pieces(sentence, count_tokens, most)):
        own = count_tokens(part)
        if piece and size + own > most:
            found.append(piece)
            piece, size = "", 0
        piece, size = piece + part, size + own
    return [part.strip() for part in (*found, piece) if part.strip()]


def _pieces(sentence: str, count_tokens: Callable[[str], int], most: int) -> Iterator[str]:
    """Halves, and halves of them, until they are short enough."""
    middle = sentence.find(" ", len(sentence) // 2)
    if count_tokens(sentence) <= most or not 0 < middle < len(sentence) - 1:
        yield sentence
        return
    for half in (sentence[:middle], sentence[middle:]):
        yield from _pieces(half, count_tokens, most)


def distill(
    teacher: Teacher,
    texts: Sequence[str],
    output: Path,
    *,
    batch_size: int = 8,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Write a pair for every text that has none in the file yet.

    Each line holds "index", "original", "compressed", and "run", a hash of the teacher and of the texts.

    Args:
        teacher: who shortens.
        texts: chunks.
        output: a .jsonl file; lines are appended.
        batch_size: texts at once; the same batches are made again after a stop, and so the same draws.
        progress: called with (pairs there, texts).

    Returns:
        How many pairs were written now.

    Raises:
        ValueError: no text, or the file holds pairs of another teacher or of other texts.
    """
    if not texts:
        raise ValueError("there is no text to shorten.")
    run = hashlib.sha256(json.dumps([teacher.name, INSTRUCTION, list(texts), batch_size]).encode()).hexdigest()[:12]
    written = 0
    output.parent.mkdir(parents=True, exist_ok=True)
    with held(output.with_name(f".{output.name}.lock"), repr(str(output))):
        there = _read(output, run)
        with output.open("a", encoding="utf-8") as file:
            for start in range(0, len(texts), batch_size):
                batch = range(start, min(start + batch_size, len(texts)))
                if not there.issuperset(batch):
                    compressed = teacher.compress([texts[index] for index in batch])
                    for index, after in zip(batch, compressed, strict=True):
                        if index not in there:
                            line = {"index": index, "original": texts[index], "compressed": after, "run": run}
                            file.write(json.dumps(line, ensure_ascii=False) + "\n")
                            written += 1
                    file.flush()
                    os.fsync(file.fileno())
                if progress is not None:
                    progress(batch.stop, len(texts))
    return written


def _read(output: Path, run: str) -> set[int]:
    """Indices that the file holds pairs for; a last line that a kill cut off is removed."""
    if not output.is_file():
        return set()
    data, found, end = output.read_bytes(), set(), 0
    for line in data.splitlines(keepends=True):
        try:
            record = json.loads(line)
            index = record["index"]
        except (ValueError, KeyError, TypeError):
            if end + len(line) < len(data):
                raise ValueError(f"{str(output)!r} holds lines that are no pairs: name another file.") from None
            break
        if record.get("run") != run:
            raise ValueError(
                f"{str(output)!r} holds pairs of another teacher, or of other texts: name another file, or remove it."
            )
        if not line.endswith(b"\n"):
            break
        found.add(index)
        end += len(line)
    if end < len(data):
        with output.open("rb+") as file:
            file.truncate(end)
    return found


def plain_texts(file: Path) -> list[str]:
    """The texts of a corpus (.jsonl, .json, .csv, .parquet, or the paragraphs of a .txt); turns of a chat are joined.

    Raises:
        ValueError: no such file, or one without text.
    """
    found = []
    for record in read_texts(file):
        turns = [turn.get("content") for turn in record.get("messages") or ()]
        parts = turns or [record.get(name) for name in ("text", "prompt", "answer")]
        text = "\n".join(part for part in parts if isinstance(part, str)).strip()
        if text:
            found.append(text)
    if not found:
        raise ValueError(f"{str(file)!r} holds no plain text for a teacher to shorten.")
    return found


def read_pairs(file: Path) -> list[tuple[str, str]]:
    """(original, compressed) of every record of a .jsonl, .json, .csv or .parquet file.

    Raises:
        ValueError: no such file, no record, or one without both texts.
    """
    if not file.is_file():
        raise ValueError(f"there is no file {str(file)!r}.")
    found = []
    for number, record in enumerate(read_objects(file), start=1):
        original, compressed = record.get("original"), record.get("compressed")
        if not isinstance(original, str) or not isinstance(compressed, str) or not original.strip():
            raise ValueError(f'{str(file)!r}, record {number}, needs the texts "original" and "compressed".')
        found.append((original, compressed))
    if not found:
        raise ValueError(f"{str(file)!r} holds no pair.")
    return found
