"""Model-written text as it is safe and useful to show."""

from __future__ import annotations

import unicodedata

_PICTURES = {"\n": "⏎\n", "\t": "⇥"}
_REORDERING = frozenset(["LRE", "LRO", "RLE", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"])  # bidirectional classes


def visible_text(text: str) -> str:
    """The text as it is safe and useful to show: what has no picture of its own gets one.

    A newline is "⏎" and a real break, a tab "⇥"; other control characters (escape sequences would act on a terminal)
    and the invisible characters that reorder text are written as their code points, e.g. "⟨U+202E⟩".

    >>> visible_text("a\\tb\\x1b[2J")
    'a⇥b⟨U+001B⟩[2J'
    """
    return "".join(_PICTURES.get(c, f"⟨U+{ord(c):04X}⟩") if c in _PICTURES or is_hidden(c) else c for c in text)


def is_hidden(character: str) -> bool:
    """Whether a character cannot be seen and acts: a control, a line separator, a mark that reorders text."""
    if unicodedata.category(character) in ("Cc", "Zl", "Zp", "Cs"):
        return True
    return unicodedata.bidirectional(character) in _REORDERING or character in "\u200e\u200f\u061c\ufeff"


def named_hidden(text: str) -> str:
    """The text with hidden characters named, for places where no markup is possible."""
    return "".join(f"⟨U+{ord(character):04X}⟩" if is_hidden(character) else character for character in text)
