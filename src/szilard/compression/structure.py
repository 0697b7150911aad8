"""Stretches of a text that mean nothing when half of them is gone: code, data, addresses, numbers with their units."""

from __future__ import annotations

import json
import re

from szilard.compression.words import Spans, as_spans, merged

_UNITS = (
    "%|‰|°[CF]?|[kMGT]?i?B|[kMG]?bit/?s?|[kcmnµμ]?m[²³]?|km/h|mph|[kmµμ]?g|[mµμ]?s|min|h|[kMGT]?Hz|[kM]?W|[kM]?Wh|[mk]?V|m?A"
    "|[mkM]?J|[km]?cal|[mc]?[lL]|K|Pa|bar|€|\\$|£|¥|USD|EUR|GBP|px|pt|in|ft|lb|oz|mi"
)
_PATTERNS = [
    re.compile(  # fenced code
        r"^[ \t]*(?P<unit>(?P<fence>`{3,}|~{3,})[^\n]*\n.*?(?:^[ \t]*(?P=fence)[`~]*(?=[ \t]*$)|\Z))",
        re.DOTALL | re.MULTILINE,
    ),
    re.compile(r"(?<!`)(?P<unit>(?P<tick>`{1,2})(?!`)[^`\n]+(?P=tick))(?!`)"),  # inline code
    re.compile(r"\b(?P<unit>(?:[a-zA-Z][a-zA-Z0-9+.-]*://|www\.)[^\s<>\"'`]*[^\s<>\"'`.,;:!?)\]}])"),  # URL
    re.compile(r"(?P<unit>[\w.+-]+@[\w-]+(?:\.[\w-]+)+)"),  # e-mail
    re.compile(
        rf"(?<![\w.])(?P<unit>[-+±~]?(?:[€$£¥] ?)?\d+(?:[.,:/]\d+)*(?:e[-+]?\d+)?(?: ?(?:{_UNITS})(?!\w))?)",
        re.IGNORECASE,
    ),
]
_OPENING = re.compile(r"[{\[]")
_DECODER = json.JSONDecoder()


def safe_units(text: str) -> Spans:
    """Places of fenced and inline code, JSON objects and lists, URLs, e-mail addresses and numbers with their units.

    Returns:
        int64 [units, 2], in order and without overlap. An opened code fence that is never closed reaches to the end.
    """
    found = [match.span("unit") for pattern in _PATTERNS for match in pattern.finditer(text)]
    return merged(as_spans(sorted(found + _json_blocks(text))))


def _json_blocks(text: str) -> list[tuple[int, int]]:
    """Outermost JSON objects and lists."""
    found = []
    position = 0
    while match := _OPENING.search(text, position):
        position = match.end()
        try:
            value, end = _DECODER.raw_decode(text, match.start())
        except (json.JSONDecodeError, RecursionError):
            continue
        if isinstance(value, dict) or any(not isinstance(item, int) for item in value):  # [1] is a reference, not data
            found.append((match.start(), end))
        position = end
    return found
