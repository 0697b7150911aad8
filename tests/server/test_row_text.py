"""A row's tokens become text piece by piece, and a stop text is never shown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from szilard.server.row_text import RowText


def bytewise(ids: list[int]) -> str:
    """A tokenizer whose tokens are bytes."""
    return bytes(ids).decode("utf-8", "replace")


def said(text: str, stop: tuple[str, ...] = ()) -> tuple[list[str], RowText]:
    row = RowText(bytewise, stop)
    pieces = []
    for token in text.encode():
        pieces.append(row.add(token))
        if row.stopped:
            return pieces, row
    return [*pieces, row.end()], row


@given(st.text(max_size=40))
def test_pieces_are_the_text_and_hold_whole_characters(text: str) -> None:
    pieces, row = said(text)
    assert "".join(pieces) == text == row.text
    assert all("\ufffd" not in piece for piece in pieces) or "\ufffd" in text


@given(st.text(alphabet="abc", max_size=30), st.lists(st.text(alphabet="abc", min_size=1, max_size=4), max_size=3))
def test_a_stop_text_ends_the_row_and_is_cut_off(text: str, stops: list[str]) -> None:
    pieces, row = said(text, tuple(stops))
    ends = [text.find(stop) + len(stop) for stop in stops if stop in text]
    assert text.startswith(row.text)
    assert row.stopped == bool(ends)
    assert not any(stop in row.text for stop in stops)
    assert "".join(pieces) == row.text


def test_what_may_become_a_stop_text_waits() -> None:
    row = RowText(bytewise, ("END",))
    assert [row.add(token) for token in b"aEN"] == ["a", "", ""]
    assert row.add(ord("x")) == "ENx"
    assert [row.add(token) for token in b"EN"] == ["", ""]
    assert row.end() == "EN"


@pytest.mark.parametrize("broken", [b"\xf0\x9f\x98", b"\xff"])
def test_a_character_that_never_ends_is_told_at_the_end(broken: bytes) -> None:
    row = RowText(bytewise)
    assert "".join([*(row.add(token) for token in broken), row.end()]) == bytewise(list(broken))
