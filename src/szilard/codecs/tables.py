"""Whole-number frequency tables, and the coding of symbols by them with an asymmetric numeral system.

A table belongs to a channel of z or to a scale of y. It has 16-bit frequencies, which are kept in the model's state
dict: encoder and decoder never compute them anew. Its last symbol is an escape, which is followed by the value itself.

Symbols of one table are coded in one call of `constriction`, so that nothing here runs once per symbol.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

BITS = 16
TOTAL = 1 << BITS
_NIBBLES = 9  # four bits each: any zig-zagged int32
_LARGEST = 2**30  # symbols are smaller
_DAMAGED = "the codec's frequency tables are damaged: take its weights anew, or call update(force=True)."


class CorruptStream(ValueError):
    """Bytes that no encoder of ours wrote."""


def frequency_table(probabilities: Tensor) -> Tensor:
    """16-bit cumulative frequencies of probabilities; every symbol keeps one at least.

    Args:
        probabilities: [K], which add up to about 1.

    Returns:
        int32 [K + 1], from 0 to 65536.

    Raises:
        ValueError: more symbols than 65536, not one frequency for each.
    """
    if len(probabilities) > TOTAL:
        raise ValueError(
            f"a frequency table has {TOTAL:,} symbols at most, not {len(probabilities):,}: choose smaller scales."
        )
    rounded = (probabilities.double() * TOTAL + 0.5).floor().long().cpu()  # halves go up, as in CompressAI
    rounded = rounded * TOTAL // rounded.sum().clamp(min=1)
    cumulative = torch.cat([rounded.new_zeros(1), rounded.cumsum(0)])
    cumulative[-1] = TOTAL
    counts = np.diff(cumulative.numpy())
    for place in np.flatnonzero(counts <= 0):  # few: each takes one from the first of the rarest that can give
        giver = np.where(counts > 1, counts, TOTAL + 1).argmin()  # torch's argmin may return any of equals
        counts[giver] -= 1
        counts[place] += 1
    return torch.cat([cumulative[:1], torch.from_numpy(counts).cumsum(0)]).int()


@dataclass(frozen=True)
class Tables:
    """Frequency tables, as the coder reads them.

    Attributes:
        models: of constriction, one a table.
        offsets: int64 [T], the value of each table's first symbol.
        lengths: int64 [T], symbols without the escape.
    """

    models: list[Any]
    offsets: np.ndarray
    lengths: np.ndarray

    @classmethod
    def of(cls, cumulative: Tensor, lengths: Tensor, offsets: Tensor) -> Tables:
        """From the buffers of an entropy model.

        Args:
            cumulative: int32 [T, K + 2]: cumulative frequencies of K symbols and the escape.
            lengths: int32 [T], how much of each row is used.
            offsets: int32 [T].

        Raises:
            ValueError: constriction is not installed, or they are no tables.
        """
        stream = _constriction()
        if not len(cumulative) == len(lengths) == len(offsets):
            raise ValueError(_DAMAGED)
        used = [
            row[:length].astype(np.float64) for row, length in zip(_whole(cumulative), _whole(lengths), strict=True)
        ]
        try:
            models = [stream.model.Categorical(np.diff(row) / TOTAL, perfect=False) for row in used]
        except ValueError:
            raise ValueError(_DAMAGED) from None
        return cls(models, _whole(offsets), _whole(lengths) - 2)


class SymbolWriter:
    """Collects symbols in the order in which a decoder will ask for them."""

    def __init__(self) -> None:
        self._calls: list[tuple[np.ndarray, Any]] = []

    def write(self, symbols: Tensor, indexes: Tensor, tables: Tables) -> None:
        """Add symbols; those of one table are written together.

        Args:
            symbols: whole numbers [n], of any size up to 31 bits.
            indexes: int64 [n], the table of each.

        Raises:
            ValueError: a symbol that is not finite or too large.
        """
        if not len(symbols):
            return
        values = symbols.detach().cpu().double().numpy()
        if not np.isfinite(values).all() or np.abs(values).max() >= _LARGEST:
            raise ValueError(
                "the latents hold numbers that are not finite or too large to be coded: the weights are damaged, or "
                "the picture's numbers are not in [0, 1]."
            )
        whole = values.astype(np.int64)
        order, bounds, used = _by_table(indexes)
        whole = whole[order]
        escaped = []
        for start, end, table in zip(bounds[:-1], bounds[1:], used, strict=True):
            shifted = whole[start:end] - tables.offsets[table]
            length = tables.lengths[table]
            outside = (shifted < 0) | (shifted >= length)
            if outside.any():
                escaped.append(np.where(shifted < 0, -2 * shifted - 1, 2 * (shifted - length))[outside])
                shifted = np.where(outside, length, shifted)
            self._calls.append((shifted.astype(np.int32), tables.models[table]))
        if escaped:
            self._write_escaped(np.concatenate(escaped))

    def _write_escaped(self, values: np.ndarray) -> None:
        """How many groups of four bits each value has, then the groups, the lowest first."""
        uniform = _constriction().model.Uniform(16)
        groups = np.zeros(len(values), dtype=np.int64)
        for place in range(_NIBBLES):
            groups[(values >> (4 * place)) > 0] = place + 1
        self._calls.append((groups.astype(np.int32), uniform))
        nibbles = (values[:, None] >> (4 * np.arange(_NIBBLES))) & 15
        present = np.arange(_NIBBLES) < groups[:, None]
        if present.any():
            self._calls.append((nibbles[present].astype(np.int32), uniform))

    def getvalue(self) -> bytes:
        """The stream: 32-bit words, little-endian."""
        coder = _constriction().stack.AnsCoder()
        for symbols, model in reversed(self._calls):
            coder.encode_reverse(symbols, model)
        return bytes(coder.get_compressed().astype("<u4").tobytes())


class SymbolReader:
    """Reads a stream of `SymbolWriter` in its order.

    Raises:
        CorruptStream: bytes that are no stream.
    """

    def __init__(self, data: bytes) -> None:
        if len(data) % 4:
            raise CorruptStream(f"a stream of {len(data)} bytes is not whole: it has words of 4 bytes.")
        try:
            self._coder = _constriction().stack.AnsCoder(np.frombuffer(data, dtype="<u4").astype(np.uint32))
        except ValueError as error:
            raise CorruptStream(f"a stream cannot be read: {error}.") from None

    def read(self, indexes: Tensor, tables: Tables) -> Tensor:
        """The next symbols.

        Args:
            indexes: int64 [n], the table of each.

        Returns:
            float64 [n].

        Raises:
            CorruptStream: symbols that no encoder wrote.
        """
        if not len(indexes):
            return torch.zeros(0, dtype=torch.float64, device=indexes.device)
        order, bounds, used = _by_table(indexes)
        whole = np.empty(len(order), dtype=np.int64)
        outside = np.zeros(len(order), dtype=bool)
        for start, end, table in zip(bounds[:-1], bounds[1:], used, strict=True):
            found = self._coder.decode(tables.models[table], int(end - start)).astype(np.int64)
            outside[start:end] = found == tables.lengths[table]
            whole[start:end] = found + tables.offsets[table]
        if outside.any():
            values = self._read_escaped(int(outside.sum()))
            table = np.repeat(used, np.diff(bounds))[outside]
            beyond = tables.offsets[table] + tables.lengths[table] + (values >> 1)
            below = tables.offsets[table] - ((values + 1) >> 1)
            whole[outside] = np.where(values & 1, below, beyond)
            if (np.abs(whole[outside]) >= _LARGEST).any():
                raise CorruptStream("a stream holds a number that no encoder wrote.")
        symbols = np.empty(len(order), dtype=np.float64)
        symbols[order] = whole
        return torch.from_numpy(symbols).to(indexes.device)

    def _read_escaped(self, number: int) -> np.ndarray:
        uniform = _constriction().model.Uniform(16)
        groups = self._coder.decode(uniform, number).astype(np.int64)
        if (groups > _NIBBLES).any():
            raise CorruptStream("a stream holds a number that no encoder wrote.")
        present = np.arange(_NIBBLES) < groups[:, None]
        nibbles = np.zeros((number, _NIBBLES), dtype=np.int64)
        if present.any():
            nibbles[present] = self._coder.decode(uniform, int(present.sum()))
        values = (nibbles << (4 * np.arange(_NIBBLES))).sum(1)
        return values

    def check_empty(self) -> None:
        """Everything was read.

        Raises:
            CorruptStream: something is left.
        """
        if not self._coder.is_empty():
            raise CorruptStream("a stream is longer than its picture.")


def _by_table(indexes: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The order that puts equal tables together, their bounds in it, and the tables."""
    own = indexes.detach().cpu().numpy()
    order = np.argsort(own, kind="stable")
    used, starts = np.unique(own[order], return_index=True)
    return order, np.append(starts, len(own)), used


def _whole(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().long().numpy()


def _constriction() -> Any:
    try:
        import constriction
    except ModuleNotFoundError:
        raise ValueError(
            "files of learned codecs need the package constriction: pip install 'szilard[codecs]'"
        ) from None
    return constriction.stream
