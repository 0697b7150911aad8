"""A table of tri-gram probabilities that learns while it is used: ADED's representative of the language model.

Liu, Lei, Zhang, Xu 2024, "Adaptive Draft-Verification for Efficient Large Language Model Decoding" (ADED, published as
Adaptix), arXiv 2407.12021.

    M[(a, b)][c] = count(a b c) / count(a b .)       from a corpus; each row cut to its `top_k` likeliest, as they are
    M[(x_i, x_i+1)][x_i+2] <- min(cap, M + delta)    for the tri-grams of the last w tokens, at every step

An updated entry may exceed 1: it is a preference, not a probability.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from szilard.engines.pair import spelling
from szilard.options import check_number
from szilard.whole_folder import check_replaceable, whole_folder

FORMAT, VERSION = "szilard.trigrams", 1
HEADER, _ARRAYS = "header.json", "trigrams.safetensors"
_CHUNK = 4_000_000  # tri-grams counted at a time
_NO_ROW: tuple[tuple[int, ...], tuple[float, ...]] = ((), ())


class TrigramTable:
    """Successors of bigrams with their weights: sorted arrays from a corpus, under rows that were updated online.

    Attributes:
        vocab_size: of the tokenizer.
        top_k: successors kept per bigram of the corpus.
        max_online_rows: updated rows that are kept; the one that was not used for longest goes first.
        max_successors_online: successors of an updated row that are kept, the heaviest.
        spelling: a probe text in the tokenizer's ids (`szilard.engines.pair.spelling`); None: not known.
    """

    def __init__(
        self,
        vocab_size: int,
        *,
        keys: np.ndarray | None = None,
        offsets: np.ndarray | None = None,
        tokens: np.ndarray | None = None,
        values: np.ndarray | None = None,
        top_k: int | None = 12,
        max_online_rows: int = 200_000,
        max_successors_online: int = 32,
        spelling: Sequence[int] | None = None,
    ) -> None:
        check_number("vocab_size", vocab_size, low=1, high=2**21, integer=True)
        check_number("top_k", top_k, low=1, integer=True, optional=True)
        check_number("max_online_rows", max_online_rows, low=1, integer=True)
        check_number("max_successors_online", max_successors_online, low=1, integer=True)
        self.vocab_size, self.top_k = vocab_size, top_k
        self.max_online_rows, self.max_successors_online = max_online_rows, max_successors_online
        self.spelling = None if spelling is None else list(spelling)
        self._keys = np.zeros(0, np.int64) if keys is None else keys  # a * vocab + b, ascending
        self._offsets = np.zeros(1, np.int64) if offsets is None else offsets  # row r is offsets[r]:offsets[r + 1]
        self._tokens = np.zeros(0, np.int32) if tokens is None else tokens
        self._values = np.zeros(0, np.float32) if values is None else values
        self._base: TrigramTable | None = None
        self._online: OrderedDict[int, dict[int, float]] = OrderedDict()

    # ---- making one ------------------------------------------------------------------------------------------

    @classmethod
    def empty(cls, vocab_size: int, **limits: Any) -> TrigramTable:
        """A table that knows nothing yet."""
        return cls(vocab_size, **limits)

    @classmethod
    def from_texts(cls, texts: Iterable[str], tokenizer: Any, *, top_k: int | None = 12, **limits: Any) -> TrigramTable:
        """Counted over texts, each on its own; write them as the model will (its chat template, its answers)."""
        ids = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts)
        limits.setdefault("spelling", spelling(partial(tokenizer.encode, add_special_tokens=False)))
        return cls.from_ids(ids, len(tokenizer), top_k=top_k, **limits)

    @classmethod
    def from_ids(
        cls, sequences: Iterable[Sequence[int]], vocab_size: int, *, top_k: int | None = 12, **limits: Any
    ) -> TrigramTable:
        """Counted over token sequences; those shorter than three are skipped.

        Raises:
            ValueError: an id outside the vocabulary.
        """
        check_number("vocab_size", vocab_size, low=1, high=2**21, integer=True)
        counted: tuple[np.ndarray, np.ndarray] = np.zeros(0, np.int64), np.zeros(0, np.int64)
        waiting: list[np.ndarray] = []
        pending = 0
        for sequence in sequences:
            ids = np.asarray(sequence, np.int64)
            if len(ids) < 3:
                continue
            if ids.min() < 0 or ids.max() >= vocab_size:
                raise ValueError(f"token id {int(ids.max())} is outside the vocabulary (0..{vocab_size - 1}).")
            waiting.append((ids[:-2] * vocab_size + ids[1:-1]) * vocab_size + ids[2:])
            pending += len(ids) - 2
            if pending >= _CHUNK:
                counted, waiting, pending = _add(counted, waiting), [], 0
        codes, counts = _add(counted, waiting)
        return cls(vocab_size, **_rows(codes, counts, vocab_size, top_k), top_k=top_k, **limits)

    def overlay(self) -> TrigramTable:
        """A table on top of this one, whose updates stay its own."""
        limits: dict[str, Any] = {
            "max_online_rows": self.max_online_rows,
            "max_successors_online": self.max_successors_online,
            "spelling": self.spelling,
        }
        above = TrigramTable(self.vocab_size, top_k=self.top_k, **limits)
        above._base = self
        return above

    # ---- asking and telling ----------------------------------------------------------------------------------

    def row(self, first: int, second: int) -> tuple[Sequence[int], Sequence[float]]:
        """Successors of a bigram and their weights, heaviest first, ties by id; both empty when there are none."""
        return self._row(first * self.vocab_size + second)

    def _row(self, key: int) -> tuple[Sequence[int], Sequence[float]]:
        online = self._online.get(key)
        if online is not None:
            ranked = sorted(online.items(), key=_by_weight)
            return tuple(zip(*ranked, strict=True))  # type: ignore[return-value]
        if self._base is not None:
            return self._base._row(key)
        place = int(self._keys.searchsorted(key))
        if place == len(self._keys) or self._keys[place] != key:
            return _NO_ROW
        part = slice(int(self._offsets[place]), int(self._offsets[place + 1]))
        return self._tokens[part].tolist(), self._values[part].tolist()

    def update(self, ids: Sequence[int], *, increment: float = 0.04, cap: float = 3.0) -> None:
        """Strengthen every tri-gram of these tokens by `increment`, up to `cap`."""
        online, vocab = self._online, self.vocab_size
        for first, second, third in zip(ids, ids[1:], ids[2:], strict=False):
            key = first * vocab + second
            entries = online.get(key)
            if entries is None:
                entries = online[key] = dict(zip(*self._row(key), strict=True))
                if len(online) > self.max_online_rows:
                    online.popitem(last=False)
            else:
                online.move_to_end(key)
            entries[third] = min(cap, entries.get(third, 0.0) + increment)
            if len(entries) > self.max_successors_online:
                del entries[max((item for item in entries.items() if item[0] != third), key=_by_weight)[0]]

    def __len__(self) -> int:
        """Bigrams with successors."""
        known = 0 if self._base is None else len(self._base)
        return known + len(self._keys) + sum(self._is_new(key) for key in self._online)

    def _is_new(self, key: int) -> bool:
        if self._base is not None:
            return not self._base._row(key)[0]
        place = int(self._keys.searchsorted(key))
        return place == len(self._keys) or int(self._keys[place]) != key

    @property
    def entries(self) -> int:
        """Stored weights."""
        return len(self._values) + sum(map(len, self._online.values()))

    def __repr__(self) -> str:
        return f"<TrigramTable: {len(self)} bigrams of {self.vocab_size} tokens, {len(self._online)} updated>"

    # ---- on disk ---------------------------------------------------------------------------------------------

    def save(self, folder: str | Path) -> Path:
        """Write the table with all its updates into a folder, whole or not at all.

        Raises:
            ValueError: the folder holds other files.
        """
        folder = Path(folder)
        check_writable_table(folder)
        arrays = self._merged()
        header = {"format": FORMAT, "version": VERSION, "vocab_size": self.vocab_size, "bigrams": len(arrays["keys"])}
        header |= {} if self.spelling is None else {"spelling": self.spelling}
        with whole_folder(folder) as scratch:
            save_file({name: torch.from_numpy(array.copy()) for name, array in arrays.items()}, str(scratch / _ARRAYS))
            (scratch / HEADER).write_text(json.dumps(header), encoding="utf-8")
        return folder

    @classmethod
    def load(cls, folder: str | Path, *, top_k: int | None = None, **limits: Any) -> TrigramTable:
        """Open a saved table; its arrays stay on disk, memory-mapped, unless rows must be cut to `top_k`.

        Raises:
            ValueError: no table, a damaged one, or one of another version.
        """
        folder = Path(folder)
        try:
            header = json.loads((folder / HEADER).read_text(encoding="utf-8"))
            if header["format"] != FORMAT:
                raise KeyError("format")
        except (OSError, ValueError, KeyError, TypeError):
            raise ValueError(
                f"{str(folder)!r} holds no tri-gram table (a folder that TrigramTable.save wrote)."
            ) from None
        if header.get("version") != VERSION:
            raise ValueError(
                f"the table {str(folder)!r} has version {header.get('version')}; this szilard reads {VERSION}."
            )
        try:
            arrays = {name: array.numpy() for name, array in load_file(str(folder / _ARRAYS)).items()}
            keys, offsets, tokens, values = (arrays[name] for name in ("keys", "offsets", "tokens", "values"))
            fits = len(offsets) == len(keys) + 1 == header["bigrams"] + 1 and len(tokens) == len(values) == offsets[-1]
            if not fits or (len(keys) > 1 and not bool((keys[1:] > keys[:-1]).all())):
                raise ValueError("its arrays do not fit together")
            if len(tokens) and not 0 <= tokens.min() <= tokens.max() < header["vocab_size"]:
                raise ValueError("it names tokens outside its vocabulary")
        except (OSError, KeyError, ValueError, IndexError, SafetensorError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(f"the table {str(folder)!r} is damaged ({reason}): build it anew.") from error
        if top_k is not None and len(keys) and int(np.diff(offsets).max()) > top_k:
            keep = np.arange(len(tokens)) - np.repeat(offsets[:-1], np.diff(offsets)) < top_k  # rows are sorted
            tokens, values = tokens[keep], values[keep]
            offsets = np.concatenate([[0], np.minimum(np.diff(offsets), top_k).cumsum()])
        vocab = int(header["vocab_size"])
        limits.setdefault("spelling", header.get("spelling"))
        return cls(vocab, keys=keys, offsets=offsets, tokens=tokens, values=values, top_k=top_k, **limits)

    def _merged(self) -> dict[str, np.ndarray]:
        """All rows as arrays, the updated ones in the place of the old."""
        layers: list[TrigramTable] = [self]
        while layers[-1]._base is not None:
            layers.append(layers[-1]._base)
        bottom = layers[-1]
        online: dict[int, dict[int, float]] = {}
        for layer in reversed(layers):
            online |= layer._online
        kept = ~np.isin(bottom._keys, np.fromiter(online, np.int64, len(online)))
        sizes = np.diff(bottom._offsets)
        inside = np.repeat(kept, sizes)
        ranked = {key: sorted(entries.items(), key=_by_weight) for key, entries in online.items()}
        keys = np.concatenate([bottom._keys[kept], np.fromiter(ranked, np.int64, len(ranked))])
        counts = np.concatenate([sizes[kept], np.array([len(row) for row in ranked.values()], np.int64)])
        flat = [item for row in ranked.values() for item in row]
        tokens = np.concatenate([bottom._tokens[inside], np.array([token for token, _ in flat], np.int32)])
        values = np.concatenate([bottom._values[inside], np.array([value for _, value in flat], np.float32)])
        order = keys.argsort()
        starts = counts.cumsum() - counts
        gather = np.concatenate([np.zeros(0, np.int64), *(np.arange(starts[r], starts[r] + counts[r]) for r in order)])
        return {
            "keys": keys[order],
            "offsets": np.concatenate([[0], counts[order].cumsum()]).astype(np.int64),
            "tokens": tokens[gather],
            "values": values[gather],
        }


def check_writable_table(folder: Path) -> None:
    """Refuse to write a table over anything but a table or an empty folder.

    Raises:
        ValueError: something else is there.
    """
    check_replaceable(folder, HEADER, FORMAT)


def _by_weight(item: tuple[int, float]) -> tuple[float, int]:
    return -item[1], item[0]


def _add(counted: tuple[np.ndarray, np.ndarray], waiting: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Distinct codes and their counts, more codes counted in."""
    if not waiting:
        return counted
    fresh, counts = np.unique(np.concatenate(waiting), return_counts=True)
    codes = np.concatenate([counted[0], fresh])
    both = np.concatenate([counted[1], counts])
    order = codes.argsort(kind="stable")
    codes, both = codes[order], both[order]
    starts = np.flatnonzero(np.concatenate([[True], codes[1:] != codes[:-1]]))
    return codes[starts], np.add.reduceat(both, starts)


def _rows(codes: np.ndarray, counts: np.ndarray, vocab: int, top_k: int | None) -> dict[str, Any]:
    """Sorted tri-gram codes with counts as normalised rows, heaviest first, cut to `top_k` without renormalising."""
    bigrams = codes // vocab
    keys, starts, sizes = np.unique(bigrams, return_index=True, return_counts=True)
    if not len(keys):
        return {}
    totals = np.add.reduceat(counts, starts)
    row = np.repeat(np.arange(len(keys)), sizes)
    order = np.lexsort((codes, -counts, row))  # within a row by count, then by id
    rank = np.arange(len(codes)) - np.repeat(starts, sizes)
    keep = rank < (len(codes) if top_k is None else top_k)
    chosen = order[keep]
    values = (counts[chosen] / totals[row[chosen]]).astype(np.float32)
    kept = np.minimum(sizes, len(codes) if top_k is None else top_k)
    return {
        "keys": keys,
        "offsets": np.concatenate([[0], kept.cumsum()]).astype(np.int64),
        "tokens": (codes[chosen] % vocab).astype(np.int32),
        "values": values,
    }
