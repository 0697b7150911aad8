"""What README and docs show can be given as it stands: commands parse, methods take their options, names exist.

Nothing is run here: most examples name models of the hub.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import szilard
from szilard.cli.commands import ANALYZE, COMMANDS, TRAIN, real_command
from szilard.registry import attention_class, method_class

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("zoo/**/*.md")])
METHODS = {slug for slug, entry in szilard.methods().items() if entry.kind == "method"}
COMPRESSORS = {slug for slug, entry in szilard.methods().items() if entry.kind == "compressor"}
DECODING = ("generate", "chat", "compare", "trace", "evaluate", "serve")  # commands whose --method decodes
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(kind: str) -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for match in _BLOCK.finditer(page.read_text(encoding="utf-8")):
            if match.group(1) == kind:
                line = page.read_text(encoding="utf-8")[: match.start()].count("\n") + 1
                yield f"{page.relative_to(ROOT)}:{line}", match.group(2)


def commands() -> Iterator[Any]:
    for place, block in blocks("bash"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words and words[0] == "szilard":
                yield pytest.param(words[1:], id=f"{place} {' '.join(words[1:4])}")


def _command(words: list[str]) -> tuple[str, str, list[str]]:
    """Path and name of a command, and its arguments."""
    group = {"train": TRAIN, "analyze": ANALYZE}.get(words[0])
    if group is None:
        return COMMANDS[words[0]][0], words[0], words[1:]
    return group[words[1]][0], words[1], words[2:]


@pytest.mark.parametrize("words", commands())
def test_a_command_parses_and_its_methods_take_their_options(words: list[str]) -> None:
    path, name, arguments = _command(words)
    if "..." in arguments:
        pytest.skip("it is cut short")
    given = real_command(path, name).make_context(name, list(arguments)).params
    named = given.get("methods") or given.get("method")
    for one in named.split(",") if isinstance(named, str) and name in DECODING else ():
        decoding, _, under = one.strip().partition(":")[0].partition("+")  # a name for the table may follow the colon
        if decoding in COMPRESSORS or decoding == "none":
            continue
        fields = set(method_class(decoding).__dataclass_fields__) if decoding in METHODS else set()
        if under or decoding not in METHODS:
            fields |= set(attention_class(under or decoding).__dataclass_fields__)
        for text in given.get("set_") or () if "," not in named else ():
            assert text.partition("=")[0].rpartition(".")[2].replace("-", "_") in fields, text


PYTHON = [pytest.param(block, id=place) for place, block in blocks("python")]


@pytest.mark.parametrize("block", PYTHON)
def test_python_names_what_there_is_with_the_arguments_it_takes(block: str) -> None:
    try:
        tree = ast.parse(block)
    except SyntaxError:
        pytest.skip("a fragment")
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "szilard":
            assert hasattr(szilard, node.attr), f"szilard.{node.attr}"
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("szilard"):
            module = __import__(str(node.module), fromlist=["_"])
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                assert hasattr(module, alias.name) or importlib.util.find_spec(whole), whole
        if isinstance(node, ast.Call) and (made := _called(node.func)) is not None:
            accepted = inspect.signature(made).parameters
            if not any(one.kind is one.VAR_KEYWORD for one in accepted.values()):
                for keyword in node.keywords:
                    assert keyword.arg is None or keyword.arg in accepted, f"{ast.unparse(node.func)}({keyword.arg}=)"


def _called(function: ast.expr) -> Any:
    """What `szilard.X(...)` calls; None for other calls."""
    if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name) and function.value.id == "szilard":
        return getattr(szilard, function.attr, None)
    return None


def test_there_is_something_to_check() -> None:
    assert len(PYTHON) > 40 and len(list(commands())) > 60
