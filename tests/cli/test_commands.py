"""Commands are imported when they are run; what the help says of them is what they say of themselves."""

from __future__ import annotations

import subprocess
import sys

import pytest

from szilard.cli.commands import ANALYZE, COMMANDS, TRAIN, function_of
from szilard.cli.main import main

EVERY = [
    pytest.param(path, name, line, id=f"{kind}{name}")
    for kind, commands in (("", COMMANDS), ("train ", TRAIN), ("analyze ", ANALYZE))
    for name, (path, line) in commands.items()
]


@pytest.mark.parametrize(("path", "name", "line"), EVERY)
def test_a_line_of_help_is_the_first_paragraph_of_the_commands_own(path: str, name: str, line: str) -> None:
    about = function_of(path, name).__doc__
    assert about is not None and " ".join(about.strip().partition("\n\n")[0].split()) == line


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["train", "--help"], ["analyze", "--help"]])
def test_help_loads_no_model_library(arguments: list[str]) -> None:
    program = (
        f"import sys; from szilard.cli.main import main; code = main({arguments!r}); "
        "print(code, *sorted({'torch', 'transformers', 'numpy'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    assert done.stderr.split() == ["0"]


@pytest.mark.parametrize("group", [[], ["train"], ["analyze"]])
def test_a_misspelt_command_is_told_what_it_may_have_been(group: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    known = {(): "generate", ("train",): "medusa", ("analyze",): "markov"}[tuple(group)]
    assert main([*group, known + "x"]) == 2
    assert known in capsys.readouterr().err


def test_a_commands_own_help_has_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "--help"]) == 0
    told = capsys.readouterr().out
    assert "--max-new-tokens" in told and " generate [OPTIONS]" in told
    assert main(["train", "medusa", "--help"]) == 0
    assert " train medusa [OPTIONS]" in capsys.readouterr().out
