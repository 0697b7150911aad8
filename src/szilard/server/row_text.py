"""One row's tokens as text, piece by piece: characters are whole, and a stop text is never shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"  # what a tokenizer writes for bytes that are not (yet) a character
_MOST_PENDING = 8  # tokens that may wait for the rest of a character


class RowText:
    """Turns tokens into text as they come.

    Args:
        decode: token ids -> text, special tokens left out.
        stop: texts at which the row ends; they are cut off.
        before: tokens in front of the first one, read for what the decoding depends on (spaces).

    Attributes:
        text: what has been said so far.
        stopped: a stop text was met.
    """

    def __init__(
        self, decode: Callable[[list[int]], str], stop: Sequence[str] = (), before: Sequence[int] = ()
    ) -> None:
        self._decode, self._stop = decode, tuple(stop)
        self._ids: list[int] = list(before)
        self._prefix, self._read = 0, len(self._ids)
        self._held = ""
        self.text = ""
        self.stopped = False

    def add(self, token: int) -> str:
        """A further token; what can be said now ("" while a character or a stop text may be coming)."""
        self._ids.append(token)
        return self._say(self._new_text(last=False), last=False)

    def end(self) -> str:
        """No further token; what was held back."""
        return "" if self.stopped else self._say(self._new_text(last=True), last=True)

    def _new_text(self, *, last: bool) -> str:
        known = self._decode(self._ids[self._prefix : self._read])
        text = self._decode(self._ids[self._prefix :])
        waits = text.endswith(_REPLACEMENT) and len(self._ids) - self._read < _MOST_PENDING
        if len(text) <= len(known) or (waits and not last):
            return ""
        self._prefix, self._read = self._read, len(self._ids)
        return text[len(known) :]

    def _say(self, new: str, *, last: bool) -> str:
        self._held += new
        ends = [self._held.find(stop) for stop in self._stop]
        if found := [end for end in ends if end >= 0]:
            said, self._held, self.stopped = self._held[: min(found)], "", True
        elif last:
            said, self._held = self._held, ""
        else:
            keep = max((_overlap(self._held, stop) for stop in self._stop), default=0)
            said, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        self.text += said
        return said


def _overlap(text: str, stop: str) -> int:
    """Characters at the end of `text` with which `stop` begins."""
    return next((size for size in range(min(len(text), len(stop) - 1), 0, -1) if stop.startswith(text[-size:])), 0)
