"""Every pair of methods does what docs/compatibility.md says: it works, or is refused in a sentence."""

from __future__ import annotations

import pytest

from tests.conformance import compatibility

TEXT = compatibility.PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize("under", [None, *compatibility.ATTENTION])
def test_decoding_methods_under_it(under: str | None) -> None:
    told = compatibility.cells(TEXT, compatibility.WRITERS, [None, *compatibility.ATTENTION])
    for method in compatibility.WRITERS:
        works = compatibility.pair(method, under) == compatibility.WORKS
        assert (told[method, under] == "✓") == works, (method, under)


@pytest.mark.parametrize("rule", compatibility.RULES)
def test_canvas_caches_under_a_rule(rule: str) -> None:
    told = compatibility.cells(TEXT, compatibility.RULES, [None, *compatibility.CANVASES])
    for under in (None, *compatibility.CANVASES):
        works = compatibility.canvas(rule, under) == compatibility.WORKS
        assert (told[rule, under] == "✓") == works, (rule, under)
