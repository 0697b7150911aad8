"""GSM8K: grade-school mathematics, judged by the final number."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, ClassVar

from szilard.evaluation.tasks import Item, TextTask
from szilard.options import check_choice

# A hyphen is a sign where it stands right before the number and joins it to nothing: "7-3" is a difference.
_NUMBER = r"(?:(?<![\w.)\]])-(?=[$\d.]))?\$?\s?(?:\d+(?:,\d{3})*(?!\d)(?:\.\d+)?|\d+|(?<![\w.])\.\d+)"
_NUMBERS = re.compile(_NUMBER)
_ARITHMETIC = r"(?:[\d\s+*/().,$%\u00d7-]|x(?=\s*[\d(]))*=[\s*]*"
_VALUE = re.compile(rf"[\s*(]*(?:{_ARITHMETIC})*({_NUMBER})")  # a number, or arithmetic and its result
_HASHES, _ANSWER_IS = re.compile("####(.*)"), re.compile(r"[Aa]nswer(?: is|:)[\s*:]*(.*)")
_BOX = re.compile(r"\\boxed\{(.*?)\}")
_HEADING = re.compile(r"\s*\d+[.)]\s+\D")  # "#### 1. Count the eggs"


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

    The hashes count where a number follows, or arithmetic that ends in one; as a heading ("#### Step 2: ...") they do
    not. After "answer is" the first number of the line counts.
    """
    text = re.sub(r"####\s*\n", "####", text.replace("\u2212", "-"))
    for line in reversed(_HASHES.findall(text)):
        if (found := _VALUE.match(line)) and not _HEADING.match(line):
            return number_of(found[1])
    for inside in reversed(_BOX.findall(text)):
        if numbers := _NUMBERS.findall(inside.rpartition("=")[2]):
            return number_of(numbers[0])
    for line in reversed(_ANSWER_IS.findall(text)):
        if found := _VALUE.match(line) or re.search(rf"({_NUMBER})", line):
            return number_of(found[1])
    numbers = _NUMBERS.findall(text)
    return number_of(numbers[-1]) if numbers else None


def number_of(text: str) -> Decimal | None:
    """A number without its commas and currency; None when it is none."""
    try:
        return Decimal(re.sub(r"[,$\s%]", "", text))
    except InvalidOperation:
        return None
