"""GSM8K: grade-school mathematics, judged by the final number."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, ClassVar

from szilard.decoding.method import check_choice
from szilard.evaluation.tasks import Item, TextTask

# A hyphen is a sign unless something that it could join stands before it: "7-3" is a difference, "10-12" a range.
_NUMBER = re.compile(r"(?:(?<![\w.)\]])-)?\$?\s?(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|(?<!\d)\.\d+)")
_MARKS = (re.compile("####"), re.compile(r"\\boxed\{"), re.compile(r"[Aa]nswer(?: is|:)"))
_HEADING = re.compile(r"\s*(?:[Ss]tep\b|\d+[.)]\s+\D)")  # of a markdown list: what follows such hashes is no answer


@dataclass(frozen=True)
class Gsm8k(TextTask):
    """Word problems whose answer is one number.

    Attributes:
        style: "chat" asks for steps and a final "#### number"; "completion" continues "Question: ... Answer:".
    """

    slug: ClassVar[str] = "gsm8k"
    paper: ClassVar[str] = "Cobbe et al. 2021, arXiv 2110.14168"
    metric: ClassVar[str] = "exact number"
    max_new_tokens: ClassVar[int] = 320
    hub: ClassVar[tuple[str, str]] = ("openai/gsm8k", "main/test-00000-of-00001.parquet")

    style: str = "chat"

    def __post_init__(self) -> None:
        check_choice("style", self.style, ("chat", "completion"))

    def item(self, record: Mapping[str, Any], number: int) -> Item | None:
        """One problem; the reference is the number after the four hashes."""
        question, solution = record["question"], record["answer"]
        reference = {"answer": solution.rpartition("####")[2].strip(), "solution": solution}
        if not isinstance(question, str) or not question.strip():
            raise ValueError("the question is no text.")
        if "####" not in solution or number_of(reference["answer"]) is None:
            raise ValueError("the answer does not end in #### and a number.")
        if self.style == "completion":
            prompt = f"Question: {question}\nAnswer: Let's think step by step."
            return Item(f"gsm8k/{number}", prompt, reference, raw=True, stop=("\nQuestion:",))
        request = f"{question}\nLet's think step by step, and end with the answer as a number after ####."
        return Item(f"gsm8k/{number}", [{"role": "user", "content": request}], reference)

    def score(self, item: Item, text: str) -> dict[str, float]:
        """1 if the number in the answer is the right one; "found" says whether there was a number at all."""
        said, right = final_number(text), number_of(item.reference["answer"])
        return {"score": float(said is not None and said == right), "found": float(said is not None)}


def final_number(text: str) -> Decimal | None:
    """The number that an answer ends in: after ####, in \\boxed{}, after "answer is", or the last one.

    Of a line with a mark the first number counts; of an equation there, the right-hand side.
    """
    text = text.replace("\u2212", "-")
    for mark in _MARKS:
        for found in reversed(list(mark.finditer(text))):
            line = text[found.end() :].lstrip().partition("\n")[0]
            if _HEADING.match(line):
                continue
            for part in (line.rpartition("=")[2], line):
                if number := _NUMBER.search(part):
                    return number_of(number[0])
    numbers = _NUMBER.findall(text)
    return number_of(numbers[-1]) if numbers else None


def number_of(text: str) -> Decimal | None:
    """A number without its commas and currency; None when it is none."""
    try:
        return Decimal(re.sub(r"[,$\s%]", "", text))
    except InvalidOperation:
        return None
