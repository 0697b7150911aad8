"""Where words begin: does a token open a word, and does it end one, by the convention of its tokenizer?

byte-level BPE   a space before a word is "Ġ", other whitespace "Ċ", "ĉ", ...; tokens spell bytes
SentencePiece    a space before a word is "▁"; "<0x0A>" spells a byte
WordPiece        a token inside a word begins with "##"
others           every token is a word
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def word_edges(tokenizer: Any, vocab_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Which tokens open a word whatever stands before them, and which end one whatever follows.

    A token opens a word unless it begins, without a sign of space, with a letter, a digit or a piece of a character;
    punctuation is a word of its own, as pre-tokenizers have it. It ends one if its last character is no letter or
    digit. Between tokens a and b a word is complete if `ends[a]` or `opens[b]`.

    Args:
        tokenizer: of transformers, with `convert_ids_to_tokens`.
        vocab_size: rows of the model's output, which may be more than the tokenizer knows.

    Returns:
        opens, ends: bool [vocab_size]; special tokens and unknown ids do both.
    """
    known = min(len(tokenizer), vocab_size)
    tokens = [token or "" for token in tokenizer.convert_ids_to_tokens(range(known))]
    special = set(tokenizer.all_special_ids)
    spell = _convention(tokens)
    opens, ends = torch.ones(vocab_size, dtype=torch.bool), torch.ones(vocab_size, dtype=torch.bool)
    edges = [(True, True) if index in special else spell(token) for index, token in enumerate(tokens)]
    if edges:
        both = torch.tensor(edges)
        opens[:known], ends[:known] = both[:, 0], both[:, 1]
    return opens, ends


def _convention(tokens: Sequence[str]) -> Any:
    """How the tokens of a vocabulary show where words begin: token -> (opens, ends)."""
    counts = {
        _of_bytes: sum(token.startswith("Ġ") for token in tokens),
        _of_pieces: sum(token.startswith("▁") for token in tokens),
        _of_word_pieces: sum(token.startswith("##") for token in tokens),
    }
    found = max(counts, key=lambda name: counts[name])
    return found if counts[found] else lambda token: (True, True)


def _of_bytes(token: str) -> tuple[bool, bool]:
    alphabet = _alphabet()
    if not all(sign in alphabet for sign in token):  # an added token, spelled out
        return _edges(token)
    spelled = bytes(alphabet[sign] for sign in token)
    return _edges(spelled.decode("utf-8", errors="replace"))


def _of_pieces(token: str) -> tuple[bool, bool]:
    byte = _BYTE.fullmatch(token)
    if byte is not None:
        return _edges(bytes([int(byte[1], 16)]).decode("utf-8", errors="replace"))
    return _edges(token.replace("▁", " "))


def _of_word_pieces(token: str) -> tuple[bool, bool]:
    return (False, False) if token.startswith("##") and len(token) > 2 else (True, not _inside(token[-1:]))


def _edges(text: str) -> tuple[bool, bool]:
    """Of a token's text, in which an incomplete character is U+FFFD."""
    return (not _inside(text[0]), not _inside(text[-1])) if text else (True, True)


def _inside(sign: str) -> bool:
    """Of a letter, a digit, a mark on the letter before it (vowels of Hindi), or a piece of a character."""
    return sign.isalnum() or sign == "\ufffd" or unicodedata.category(sign).startswith("M")


@lru_cache(maxsize=1)
def _alphabet() -> dict[str, int]:
    """The signs that byte-level BPE writes bytes with: printable ones as they are, the others from U+0100 on."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + at): byte for at, byte in enumerate(others)}
