"""Answers to a file of prompts, one JSON line each; a stopped run goes on where it was."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from szilard.decoding.method import Method
from szilard.engines.engine import Engine
from szilard.records import fault, read_records, read_text
from szilard.whole_folder import held


def read_prompts(file: Path) -> list[Any]:
    """Prompts of a file: records with "prompt", "messages", "question", "text" or "turns" (the first), or its lines.

    Raises:
        ValueError: no such file, nothing in it, or a record without a prompt.
    """
    if not file.is_file():
        raise ValueError(f"there is no file {str(file)!r}.")
    if file.suffix == ".txt":
        found: list[Any] = [line for line in read_text(file).split("\n") if line.strip()]
    else:
        found = []
        for number, record in enumerate(read_records(file), start=1):
            if (wrong := fault(record)) is not None:
                raise ValueError(f"{str(file)!r}, record {number}, {wrong}.")
            prompt = _prompt(record)
            if not prompt:
                raise ValueError(
                    f"{str(file)!r}, record {number}, has none of 'prompt', 'messages', 'question', 'text' and 'turns'."
                )
            found.append(prompt)
    if not found:
        raise ValueError(f"{str(file)!r} holds no prompt.")
    return found


def _prompt(record: Mapping[str, Any]) -> Any:
    if record.get("turns"):
        return record["turns"][0]
    if record.get("messages"):  # up to the last question
        turns = list(record["messages"])
        while turns and turns[-1].get("role") == "assistant":
            turns.pop()
        return turns
    return next((record[name] for name in ("prompt", "question", "text") if record.get(name)), None)


def answer_all(
    engine: Engine,
    prompts: Sequence[Any],
    output: Path,
    method: Method | None = None,
    *,
    batch_size: int = 8,
    seed: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    **settings: Any,
) -> int:
    """Write an answer to every prompt that has none yet.

    Each line holds "index", "prompt", "prompt_ids", "ids" (the new tokens, as `szilard train` takes them), "answer",
    "finish_reason", and "run", a hash of the model and of the settings.

    Args:
        engine: the model.
        prompts: texts or chats.
        output: a .jsonl file; lines are appended.
        method: how to decode; None: greedy, or sampling with `do_sample`.
        batch_size: prompts per batch.
        seed: of sampled runs; prompt i draws from seed + its batch's first index.
        progress: called with (answers there, prompts).
        settings: further options of `Engine.generate`.

    Returns:
        How many were written now.

    Raises:
        ValueError: the file holds answers of another model or of other settings, or another process writes it.
    """
    said = {
        "method": str(method) if method is None else f"{method.slug} {method.recorded_options(engine)}",
        "batch": batch_size,
        "seed": seed,
        **{name: str(settings[name]) for name in settings},
    }
    run = hashlib.sha256(json.dumps([engine.fingerprint, said], sort_keys=True).encode()).hexdigest()[:12]
    written = 0
    lock = output.with_name(f".{output.name}.lock")
    with held(lock, repr(str(output))), output.open("a", encoding="utf-8") as file:
        there = _read(output, run, prompts)
        for index in sorted(set(range(len(prompts))) - there):  # a long prompt is told before any is answered
            try:
                inputs = engine.encode([prompts[index]], raw=bool(settings.get("raw")))
                engine.check_length(inputs, settings.get("max_new_tokens", 128))
            except ValueError as error:
                raise ValueError(f"prompt {index + 1}: {error}") from error
        if progress is not None:
            progress(len(there), len(prompts))
        for start in range(0, len(prompts), batch_size):  # the same batches whatever is there: the same answers
            batch = range(start, min(start + batch_size, len(prompts)))
            if there.issuperset(batch):
                continue
            asked = [prompts[index] for index in batch]
            own_seed = None if seed is None else seed + start
            results = engine.generate(asked, method, trace=False, seed=own_seed, **settings)
            for index, result in zip(batch, results, strict=True):
                if index not in there:
                    line = {
                        "index": index,
                        "prompt": prompts[index],
                        "prompt_ids": [int(token) for token in _ids(engine, prompts[index], settings)],
                        "ids": [int(token) for token in result.tokens],
                        "answer": result.text,
                        "finish_reason": result.finish_reason,
                        "run": run,
                    }
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")
                    written += 1
            file.flush()
            os.fsync(file.fileno())
            if progress is not None:
                progress(len(there) + written, len(prompts))
    return written


def _ids(engine: Engine, prompt: Any, settings: Mapping[str, Any]) -> list[int]:
    return engine.encode([prompt], raw=bool(settings.get("raw")))["input_ids"][0].tolist()


_BEGINNING = b'{"index": '


def _read(output: Path, run: str, prompts: Sequence[Any]) -> set[int]:
    """Indices that the file answers; a last line that a kill cut off is removed."""
    if not output.is_file():
        return set()
    data, found, end = output.read_bytes(), set(), 0
    for line in data.split(b"\n"):
        if not line.strip():
            end += len(line) + 1
            continue
        try:
            row = json.loads(line)
        except ValueError:
            ours = line.startswith(_BEGINNING) or _BEGINNING.startswith(line)  # else nothing that a kill cut off
            if end + len(line) < len(data) or not ours:
                raise ValueError(f"{str(output)!r} holds a line that is no JSON: name another file.") from None
            break
        if not isinstance(row, dict) or row.get("run") != run:
            raise ValueError(
                f"{str(output)!r} holds answers of another model or of other settings: name another file, or remove it."
            )
        index = int(row["index"])
        if index < len(prompts) and row["prompt"] != prompts[index]:
            raise ValueError(f"{str(output)!r} answers other prompts (number {index + 1} differs): name another file.")
        found.add(index)
        end += len(line) + 1
    if end < len(data):
        with output.open("r+b") as file:
            file.truncate(end)
    elif data and not data.endswith(b"\n"):
        with output.open("ab") as file:
            file.write(b"\n")
    return found
