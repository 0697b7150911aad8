"""HumanEval and MBPP: functions to be written, judged by their original tests (pass@1)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from szilard.evaluation.sandbox import run_program
from szilard.evaluation.tasks import Item, TextTask
from szilard.options import check_bool, check_choice, check_number

_STOP = ("\nclass ", "\ndef ", "\n#", "\nif ", "\nprint(", "\nassert ", "\n```")


@dataclass(frozen=True)
class CodeTask(TextTask):
    """Completes code, or writes it in a chat.

    Attributes:
        style: "completion" continues the code as it is, up to the next definition; "chat" asks for the whole function
            and takes the first code block of the answer (choose it for models that answer in such blocks).
        allow_code_execution: the answers are programs: they run (see `szilard.evaluation.sandbox`) only if you say so.
        timeout: seconds per program.
    """

    metric: ClassVar[str] = "pass@1"
    max_new_tokens: ClassVar[int] = 512
    executes_code: ClassVar[bool] = True
    harmless: ClassVar[frozenset[str]] = frozenset({"allow_code_execution"})

    style: str = "completion"
    allow_code_execution: bool = False
    timeout: float = 10.0

    def __post_init__(self) -> None:
        check_choice("style", self.style, ("completion", "chat"))
        check_bool("allow_code_execution", self.allow_code_execution)
        check_number("timeout", self.timeout, low=0.1)

    def score(self, item: Item, text: str) -> dict[str, float]:
        """1 if the program passes its tests.

        Raises:
            ValueError: running it was not allowed.
        """
        if not self.allow_code_execution:
            raise ValueError(
                f"'{self.slug}' judges programs that the model wrote by running them: allow it with "
                "--allow-code-execution."
            )
        return {"score": float(run_program(self.program(item, text), timeout=self.timeout).passed)}

    def program(self, item: Item, text: str) -> str:
        """What is run: the answer and its tests."""
        reference = item.reference
        if self.style == "chat":
            answer = reference["before"] + "\n" + code_block(text)
        elif text.lstrip().startswith("```"):  # what a chat model may do to any prompt
            answer = reference["before"] + cut(code_block(text), item.stop)
        else:
            answer = reference["before"] + cut(text, item.stop)
        return f"{answer}\n\n{reference['tests']}\n"

    def _chat(self, request: str) -> list[dict[str, str]]:
        return [{"role": "user", "content": request}]


@dataclass(frozen=True)
class HumanEval(CodeTask):
    __doc__ = CodeTask.__doc__

    slug: ClassVar[str] = "humaneval"
    paper: ClassVar[str] = "Chen et al. 2021, arXiv 2107.03374"
    hub: ClassVar[tuple[str, str]] = ("openai/openai_humaneval", "openai_humaneval/test-00000-of-00001.parquet")

    def item(self, record: Mapping[str, Any], number: int) -> Item | None:
        """One function: signature and docstring are the prompt."""
        prompt, tests = record["prompt"], f"{record['test']}\ncheck({record['entry_point']})"
        reference = {"before": prompt, "tests": tests, "solution": record["canonical_solution"]}
        if self.style == "completion":
            return Item(record["task_id"], prompt, reference, raw=True, stop=_STOP)
        request = (
            "Complete the following Python function. Answer with the whole function in one code block.\n\n"
            f"```python\n{prompt}```"
        )
        return Item(record["task_id"], self._chat(request), reference)


@dataclass(frozen=True)
class Mbpp(CodeTask):
    __doc__ = (CodeTask.__doc__ or "") + (
        "    split: of the original numbering: test (11-510), train (601-974), validation (511-600) or prompt (1-10).\n"
    )

    slug: ClassVar[str] = "mbpp"
    paper: ClassVar[str] = "Austin et al. 2021, arXiv 2108.07732"
    hub: ClassVar[tuple[str, str]] = ("google-research-datasets/mbpp", "full/test-00000-of-00001.parquet")

    split: str = "test"

    _RANGES: ClassVar[dict[str, tuple[int, int]]] = {
        "test": (11, 510),
        "train": (601, 974),
        "validation": (511, 600),
        "prompt": (1, 10),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("split", self.split, tuple(self._RANGES))

    def source(self) -> tuple[str, str]:
        """The file of the chosen split."""
        dataset, name = self.hub
        return dataset, name.replace("test", self.split)

    def item(self, record: Mapping[str, Any], number: int) -> Item | None:
        """One problem: its text and its asserts are the prompt, in a docstring or in a chat."""
        first, last = self._RANGES[self.split]
        if not first <= record["task_id"] <= last:
            return None
        asserts = "\n".join(record["test_list"])
        tests = f"{record.get('test_setup_code') or ''}\n{asserts}"
        solution = record["code"].replace("\r\n", "\n")
        name = f"mbpp/{record['task_id']}"
        reference = {"before": "", "tests": tests, "solution": solution}
        if self.style == "completion":
            return Item(name, f'"""\n{record["text"]}\n{asserts}\n"""\n', reference, raw=True, stop=_MBPP_STOP)
        request = (
            f"{record['text']} Answer with Python code in one code block. The code must pass these tests:\n\n{asserts}"
        )
        return Item(name, self._chat(request), reference)


_MBPP_STOP = ('\n"""', "\nassert ", "\nprint(", "\nif __name__", "\n```", "\n# Test", "\n# Example")


def cut(text: str, stops: tuple[str, ...]) -> str:
    """The text before the first of the stop texts."""
    ends = [at for at in (text.find(stop) for stop in stops) if at >= 0]
    return text[: min(ends)] if ends else text


def code_block(text: str) -> str:
    """The first fenced block of an answer; the whole answer when there is none."""
    found = re.search(r"```[a-zA-Z0-9]*[ \t]*\r?\n(.*?)(?:```|\Z)", text, re.DOTALL)
    return found.group(1) if found else text
