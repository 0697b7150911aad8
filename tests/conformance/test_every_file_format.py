"""Damaged files: every reader of a format of ours, and of users' texts, gives an object or one `ValueError`.

Files are cut, flipped, shortened, repeated, and, where they are JSON, given other values in one place.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import szilard
from szilard.attention.tidal_calibration import read_plan
from szilard.attention.uncomp.plan import UnCompPlan
from szilard.codecs.rd_curves import RDCurve
from szilard.compression.llmlingua2 import distillation
from szilard.compression.passages import read_questions
from szilard.compression.text import CompressedText
from szilard.decoding.adadec_threshold import ThresholdFit
from szilard.decoding.grounding_examples import read_examples
from szilard.engines import TransformersEngine
from szilard.evaluation.bulk import read_prompts
from szilard.evaluation.store import ResultStore
from szilard.reasoning.examples import read_reasoning
from szilard.reasoning.supervised_config import SupervisedConfig
from szilard.records import read_records
from szilard.representation.vl_jepa.pairs import read_pairs as read_captions
from szilard.speculative.trigram_table import TrigramTable
from szilard.training.config import read_config
from szilard.training.corpus import read_texts
from tests.conftest import tiny_model, tiny_tokenizer

TRIES = 60
VALUES = (None, True, -1, 0, 2**70, 1e308, "", "x", "1e-3", [], {}, [[]], [None], {"": []})


def _written(what: Any) -> Callable[[Path], Any]:
    """Writes text as it is, a list as lines of JSON, and what else there is as JSON."""
    text = what if isinstance(what, str) else json.dumps(what)
    if isinstance(what, list):
        text = "".join(json.dumps(one) + "\n" for one in what)
    return lambda file: file.write_text(text, encoding="utf-8")


def _settings(file: Path) -> SupervisedConfig:
    return read_config(SupervisedConfig, file, {})


def _captioned(file: Path) -> None:
    (file.parent / "a.png").touch()
    _written([{"image": str(file.parent / "a.png"), "answer": "b"}] * 3)(file)


def _trace(file: Path) -> None:
    engine = TransformersEngine(tiny_model("llama"), tiny_tokenizer(), name="tiny")
    engine.generate("w10 w11", szilard.Lead(window=3), max_new_tokens=6, trace=True).trace.save(file)


def _plan(file: Path) -> None:
    votes = (((3, 1), (1, 3)),) * 2
    UnCompPlan(votes, ((0.2, 0.4),) * 2, (0.6, 0.7), 2, texts=4, model="tiny").save(file)


def _stored(folder: Path) -> None:
    store = szilard.ContextStore(folder)
    words = szilard.compress("a b c d e f g h", "truncation", budget=0.5)
    assert isinstance(words, CompressedText)
    store.put(words, "notes")


def _results(folder: Path) -> None:
    row = {"task": "t", "item": "1", "method": "greedy", "model": "m", "seed": 0, "score": 1.0, "trace": ""}
    ResultStore(folder).add(row)


def _table(folder: Path) -> None:
    table = TrigramTable.from_ids([[1, 2, 3, 1, 2, 4]], 9)
    table.save(folder)


# name of the file or folder: what writes a whole one, what reads it
FORMATS: dict[str, tuple[Callable[[Path], Any], Callable[[Path], Any]]] = {
    "trace.json": (_trace, szilard.Trace.load),
    "trace.parquet": (_trace, szilard.Trace.load),
    "uncomp.json": (_plan, UnCompPlan.load),
    "threshold.json": (ThresholdFit(1.5, 0.1, 0.2, 0.5, 0.9, 10, 0.7, 0.3, {"share": 0.1}).save, ThresholdFit.load),
    "tidal.json": (_written({"method": "tidal-decode", "settings": {"budget": 64}}), read_plan),
    "curve.json": (RDCurve("mine", (0.1, 0.2), (30.0, 32.0), (11.0, 12.0)).to_json, RDCurve.from_json),
    "table": (_table, TrigramTable.load),
    "contexts": (_stored, lambda folder: szilard.ContextStore(folder).get("notes")),
    "results": (_results, lambda folder: ResultStore(folder).table()),
    "settings.yaml": (_written("steps: 10\nlearning_rate: 1e-4\n"), _settings),
    "prompts.jsonl": (_written([{"prompt": "a b"}, {"messages": [{"role": "user", "content": "c"}]}]), read_prompts),
    "items.jsonl": (_written([{"question": "a", "answer": "b"}] * 3), lambda file: list(read_records(file))),
    "examples.jsonl": (_written([{"question": "a", "answers": ["b", "c"]}] * 3), read_examples),
    "chains.jsonl": (_written([{"question": "a", "chain": "b", "answer": "c"}] * 3), read_reasoning),
    "texts.jsonl": (_written([{"text": "a b c"}] * 3), read_texts),
    "captions.jsonl": (_captioned, read_captions),
    "pairs.jsonl": (_written([{"original": "a b c", "compressed": "a c"}] * 3), distillation.read_pairs),
    "questions.jsonl": (_written([{"context": ["b"], "prompt": "a", "answer": "c"}] * 3), read_questions),
}


@pytest.mark.parametrize("name", FORMATS)
def test_a_damaged_file_is_read_or_refused_in_a_sentence(name: str, tmp_path: Path) -> None:
    write, read = FORMATS[name]
    whole = tmp_path / "whole" / name
    whole.parent.mkdir()
    write(whole)
    read(whole)
    draw = random.Random(name)
    for number in range(TRIES):
        own = tmp_path / str(number) / name
        own.parent.mkdir()
        (shutil.copytree if whole.is_dir() else shutil.copy)(whole, own)
        file = draw.choice(sorted(path for path in own.rglob("*") if path.is_file())) if own.is_dir() else own
        file.write_bytes(_damaged(file, draw))
        kept = file.read_bytes()
        try:
            read(own)
        except (ValueError, TypeError) as error:
            told = str(error)
            assert told.strip() and len(told) < 2000, told
        except Exception as error:
            raise AssertionError(f"{type(error).__name__}: {error} of {kept[:400]!r}") from error
        assert file.read_bytes() == kept  # a reader changes nothing


def _damaged(file: Path, draw: random.Random) -> bytes:
    data = bytearray(file.read_bytes())
    kind = draw.choice(("cut", "flip", "drop", "again", "value", "value"))
    start = draw.randrange(len(data))
    if kind == "value" and file.suffix in (".json", ".jsonl"):
        lines = data.decode().splitlines() if file.suffix == ".jsonl" else [data.decode()]
        place = draw.randrange(len(lines))
        lines[place] = json.dumps(_other(json.loads(lines[place]), draw))
        return "\n".join(lines).encode()
    if kind == "cut":
        return bytes(data[:start])
    if kind == "flip":
        data[start] ^= 1 << draw.randrange(8)
    elif kind == "drop":
        del data[start : start + draw.randint(1, 20)]
    else:
        data[start:start] = data[start : start + draw.randint(1, 20)]
    return bytes(data)


def _other(value: Any, draw: random.Random) -> Any:
    """The value with another one somewhere in it."""
    if isinstance(value, dict) and value and draw.random() < 0.9:
        name = draw.choice(sorted(value))
        if draw.random() < 0.2:
            return {key: one for key, one in value.items() if key != name}
        return value | {name: _other(value[name], draw)}
    if isinstance(value, list) and value and draw.random() < 0.8:
        place = draw.randrange(len(value))
        return [*value[:place], _other(value[place], draw), *value[place + 1 :]]
    return draw.choice(VALUES)
