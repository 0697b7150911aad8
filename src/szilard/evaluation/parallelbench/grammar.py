"""Is a text without grammatical faults? By LanguageTool, as published, or by a few offline checks of ours.

`offline_faults` knows four kinds of fault only; what it lets pass may still be wrong, so its scores must not be
compared with those of LanguageTool.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

GRAMMARS = ("language-tool", "offline")
_PAIRS = {")": "(", "]": "[", "}": "{"}
_SILENT_H = ("hour", "honest", "honour", "honor", "heir")
_LIKE_YOU = ("uni", "use", "usu", "uten", "eu", "one", "once", "ubiq")
_LIKE_UN = ("unin", "unim", "unid", "uninf")


def grammatical(text: str, grammar: str = "language-tool") -> bool:
    """Whether the stripped text is not empty and has no fault.

    Raises:
        ValueError: LanguageTool is not there.
    """
    text = text.strip()
    if not text:
        return False
    return not (offline_faults(text) if grammar == "offline" else _language_tool().check(text))


def check_grammar(grammar: str) -> None:
    """Refuse, before any work, a checker that is not there.

    Raises:
        ValueError: it is none, or missing.
    """
    if grammar not in GRAMMARS:
        raise ValueError(f"grammar must be one of {', '.join(map(repr, GRAMMARS))}, not {grammar!r}.")
    if grammar == "language-tool":
        _language_tool()


@cache
def _language_tool() -> Any:
    try:
        from language_tool_python import LanguageTool

        return LanguageTool("en-US")
    except Exception as error:  # the package, its Java, or the download of the server
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"grammar is judged by LanguageTool, which does not start here ({reason}): install Java and "
            "language-tool-python, or take grammar=offline, a few checks of another kind whose scores cannot be "
            "compared."
        ) from None


def offline_faults(text: str) -> tuple[str, ...]:
    """Faults of a text, in words: repeated words, a/an, brackets and quotes, the case and end of sentences."""
    text = text.strip()
    if not text:
        return ("it is empty",)
    faults = [
        f"'{found[1]}' is repeated"
        for found in re.finditer(r"\b([A-Za-z]+)\s+\1\b", text, re.IGNORECASE)
        if found[1].lower() not in ("that", "had")  # "the fact that that..." and "had had" are English
    ]
    for found in re.finditer(r"\b([Aa]n?)\s+([A-Za-z][a-z]+)", text):
        article, word = found[1].lower(), found[2].lower()
        if (article == "an") != _vowel_sound(word):
            faults.append(f"'{found[0]}' has the wrong article")
    faults += _unbalanced(text)
    for sentence in re.split(r"(?<=[.!?])[\"')\]]*\s+", text):
        letter = re.search(r"[A-Za-z0-9]", sentence)
        if letter and letter[0].islower():
            faults.append(f"'{sentence.split()[0]}' begins a sentence in lower case")
    if not re.search(r"[.!?][\"')\]]*$", text):
        faults.append("the last sentence has no end")
    return tuple(faults)


def _vowel_sound(word: str) -> bool:
    if word.startswith(_SILENT_H):
        return True
    if word.startswith(_LIKE_YOU) and not word.startswith(_LIKE_UN):
        return False
    return word[0] in "aeiou"


def _unbalanced(text: str) -> list[str]:
    opened: list[str] = []
    for sign in text:
        if sign in _PAIRS.values():
            opened.append(sign)
        elif sign in _PAIRS and (not opened or opened.pop() != _PAIRS[sign]):
            return [f"'{sign}' closes nothing"]
    faults = [f"'{sign}' is not closed" for sign in opened]
    return faults + (["a quotation mark is alone"] if text.count('"') % 2 else [])
