"""Where the output cannot be written, every command says so in one sentence before it loads a model or trains."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from szilard.cli.commands import ANALYZE, COMMANDS, TRAIN, real_command
from szilard.cli.main import main

ALSO = {  # options that these need, before a file of records
    "generate": ["--prompts"],
    "compress": [],
    "evaluate": ["--task", "gsm8k", "--data"],
    "train adadec": ["--examples"],
    "train llmlingua2": ["--data"],
    "train sae": ["--data"],
}
NOWHERE = "/proc/nowhere/out.json"  # not even root can make it


def writers() -> Iterator[Any]:
    for before, group in (((), COMMANDS), (("train",), TRAIN), (("analyze",), ANALYZE)):
        for name, (path, *_) in group.items():
            if "--output" in {flag for one in real_command(path, name).params for flag in one.opts}:
                yield pytest.param([*before, name], path, id=" ".join([*before, name]))


@pytest.mark.parametrize(("words", "path"), writers())
def test_an_output_that_cannot_be_written_is_refused_first(
    words: list[str], path: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def begun(*_: Any, **__: Any) -> None:
        raise AssertionError("it began to load a model")

    monkeypatch.setattr("szilard.engines.load", begun)
    monkeypatch.setattr("szilard.engines.loading.load", begun)
    arguments = [*words]
    for one in real_command(path, words[-1]).params:
        if one.required and one.name != "output":
            value = _value(" ".join(words), one.name, tmp_path)
            arguments += [value] if one.param_type_name == "argument" else [one.opts[0], value]
    if " ".join(words) in ALSO:
        arguments += [*ALSO[" ".join(words)], _value("", "data", tmp_path)]
    code = main([*arguments, "--output", NOWHERE])
    told = capfd.readouterr().err
    assert code == 2 and "Traceback" not in told and "/proc" in told, told


def _value(command: str, name: str, folder: Path) -> str:
    """Something that a required option takes."""
    pictures = folder / "pictures"
    if name == "images" or command in ("train codec", "train feds", "train lv-rae"):
        pictures.mkdir(exist_ok=True)
        for number in range(4):
            Image.fromarray(np.full((96, 96, 3), 60 * number, np.uint8)).save(pictures / f"{number}.png")
        return str(pictures)
    if name in ("model", "compressors"):
        return "zoo/tiny-lm" if name == "model" else "a/model"
    if name == "codec":
        return "jpeg"
    if name == "prompt":
        return "why"
    if command in ("train qlae", "train infogan"):
        return "sprites"
    if command == "train koopman":
        return "oscillator"
    file = folder / "records.jsonl"
    words = " ".join(f"word{number}" for number in range(40)) + "."
    names = ("text", "prompt", "response", "question", "context", "chain", "reasoning", "solution", "output")
    record = dict.fromkeys(names, words) | {"answer": f"{words} #### 4"}
    file.write_text("\n".join([json.dumps(record)] * 40))
    return str(file)
