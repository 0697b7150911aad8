"""Shortened texts as one self-contained HTML page: every word by its score, and what was left out.

As of `szilard.decoding.page`: the page loads nothing, its content security policy forbids the rest, and all that comes
from outside is escaped. Without scripts it shows what was decided; the script moves the threshold.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files

from szilard.compression.text import CompressedText
from szilard.decoding.page import _inline, _marked
from szilard.decoding.visible_text import named_hidden
from szilard.html_page import page

__all__ = ["compression_page"]


def compression_page(results: CompressedText | Sequence[CompressedText], *, title: str = "Compressed text") -> str:
    """One HTML document with every text, its words coloured by score; those that were dropped are struck through.

    A slider per text moves the threshold and counts the tokens of what would stay. All texts share one colour scale:
    from 0 to 1 where scores are probabilities, else from the lowest to the highest score.

    Args:
        results: one or several, of any compressor that drops words.
        title: heading of the page.

    Returns:
        A complete document; write it with UTF-8 encoding.

    Raises:
        ValueError: there are no results.
    """
    if isinstance(results, CompressedText):
        results = [results]
    if not results:
        raise ValueError("A page needs at least one text to show; the list of results is empty.")
    scores = [word.score for result in results for word in result.words]
    lowest, highest = min(scores, default=0.0), max(scores, default=1.0)
    if lowest >= 0 and highest <= 1:
        lowest, highest = 0.0, 1.0
    template = files("szilard.compression").joinpath("page.html").read_text(encoding="utf-8")
    values = {
        "heading": _inline(title),
        "lowest": f"{lowest:.3g}",
        "highest": f"{highest:.3g}",
        "body": "\n".join(_text(result, lowest, highest) for result in results),
    }
    return page(template, named_hidden(title), values)


def _text(result: CompressedText, lowest: float, highest: float) -> str:
    said = (
        f"{result.compressed_tokens:,} of {result.original_tokens:,} tokens ({result.rate:.0%}), counted by "
        f"{_inline(result.counted_by)}"
    )
    return (
        f'<section class="text">\n<header><h2>{_inline(result.method)}</h2><p>{said}</p></header>\n'
        '<div class="controls script-only"><span>threshold</span><input type="range" min="0" step="1" '
        'aria-label="Threshold"><output></output><button type="button">as decided</button>'
        '<label><input type="checkbox">only what stays</label></div>\n'
        f'<div class="words" dir="auto">{_words(result, lowest, highest)}</div>\n</section>'
    )


def _words(result: CompressedText, lowest: float, highest: float) -> str:
    width = highest - lowest or 1.0
    pieces = []
    position = 0
    for word in result.words:
        if word.start > position:
            pieces.append(_marked(result.original[position : word.start]))
        share = min(max((word.score - lowest) / width, 0.0), 1.0)
        pieces.append(
            f'<span class="w{"" if word.kept else " out"}" style="--s:{share:.3f}" data-score="{word.score:.6g}" '
            f'data-tokens="{word.tokens}">{_marked(result.original[word.start : word.end])}</span>'
        )
        position = max(position, word.end)
    pieces.append(_marked(result.original[position:]))
    return "".join(pieces)
