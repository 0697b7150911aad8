"""The overview at the head of the evidence page leaves no method out and leads to sections that are there."""

from __future__ import annotations

import re
import runpy
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import szilard
from szilard.cli.commands import ANALYZE, TRAIN

ROOT = Path(__file__).parents[2]
OUTCOMES = runpy.run_path(str(ROOT / "benchmarks" / "outcomes.py"))
ROWS = OUTCOMES["ROWS"]
PAGE = (ROOT / "docs" / "reproduction.md").read_text(encoding="utf-8")
OVERVIEW = PAGE.partition("## Outcomes\n")[2].partition("\n## ")[0]
CELLS = {line.strip("| ").split(" | ")[0]: line for line in OVERVIEW.splitlines() if line.startswith("| [")}


def by_name(row: Any) -> str:
    return str(row.name)


def words(text: str) -> int:
    """Words and numbers; signs that stand alone do not count."""
    return sum(any(sign.isalnum() for sign in word) for word in text.split())


def test_whatever_is_registered_trained_or_analysed_has_one_row_or_makes_no_claim() -> None:
    named = Counter([name for row in ROWS for name in row.covers] + list(OUTCOMES["WITHOUT_CLAIM"]))
    assert set(named) == set(szilard.methods()) | set(TRAIN) | set(ANALYZE)
    assert max(named.values()) == 1


@pytest.mark.parametrize("row", ROWS, ids=by_name)
def test_a_row_is_in_the_page_and_leads_to_its_section(row: Any) -> None:
    (name,) = (cell for cell in CELLS if cell.startswith(f"[{row.name}]("))
    assert CELLS[name].endswith(f"| {row.claim} | {row.measured} | {row.outcome} |")
    target = name.removeprefix(f"[{row.name}](").removesuffix(")")
    if target.startswith("#"):
        headings = re.findall(r"^#+ (.+)$", PAGE, re.MULTILINE)
        assert [re.sub(r"[^\w\s-]", "", one.lower()).replace(" ", "-") for one in headings].count(target[1:]) == 1
    else:
        assert (ROOT / "docs" / target).is_file()


@pytest.mark.parametrize("row", ROWS, ids=by_name)
def test_a_row_is_short_and_says_what_came_of_it(row: Any) -> None:
    assert row.outcome in OUTCOMES["OUTCOMES"]
    assert (row.section is None) == (row.outcome == OUTCOMES["NOT_YET"])
    assert words(row.claim) <= 15 and words(row.measured) <= 25


def test_the_counts_are_those_of_the_rows() -> None:
    first = OVERVIEW.strip().splitlines()[0]
    counted = Counter(row.outcome for row in ROWS)
    assert first.startswith(f"{len(ROWS)} claims: ")
    assert all(f"{count} {outcome}" in first for outcome, count in counted.items())
