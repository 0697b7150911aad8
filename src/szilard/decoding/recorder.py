"""Recording a trace: what a decoding loop says of its steps, kept as references until the run is over."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from szilard.decoding.trace import MODES, Trace
from szilard.decoding.trace_files import CANDIDATES, REQUIRED

Scalar = bool | int | float | str
Column = Tensor | Scalar | list[str] | None

_GIVEN_BY_RECORDER = frozenset(REQUIRED) - {"mode"}  # names that `add(**columns)` cannot use
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"  # what a tokenizer writes for bytes that are not (yet) a character
_MAX_PENDING = 8  # tokens; a UTF-8 character has 4 bytes, so text still pending after 8 is not going to be completed


class _RecordedStep(NamedTuple):
    token: Tensor  # [batch]
    entropy: Tensor  # [batch]
    active: Tensor | None  # [batch], bool
    candidates: tuple[Tensor, Tensor] | None  # ids and weights, [batch, k] each
    columns: dict[str, Column]


class TraceRecorder:
    """Collects the steps of a decoding loop at the price of one list append per step.

    The recorder keeps references: do not change a recorded tensor in place afterwards (write `stay = stay + 1`, not
    `stay += 1`), and do not hand it a small view of a large tensor that should be freed.

    >>> recorder = TraceRecorder()
    >>> recorder.add(token=torch.tensor([7]), entropy=torch.tensor([0.5]), mode=torch.tensor([1]), switched=False)
    >>> recorder.finish().summary()["latent_steps"]
    1
    """

    def __init__(self) -> None:
        self._steps: list[_RecordedStep] = []

    def __len__(self) -> int:
        """Number of steps added so far."""
        return len(self._steps)

    def add(
        self,
        token: Tensor,
        entropy: Tensor,
        *,
        candidates: tuple[Tensor, Tensor] | None = None,
        active: Tensor | None = None,
        **columns: Column,
    ) -> None:
        """Record one step of every row.

        Args:
            token: [batch] ids of the chosen tokens.
            entropy: [batch] entropy of the distributions they were chosen from, in nats.
            candidates: (ids [batch, k], weights [batch, k]), heaviest first; k may differ from step to step. A weight
                that is not above zero leaves its candidate out, and a row without any candidate has null.
            active: [batch] bool, the rows that were unfinished at this step; the others are dropped. None: all.
            columns: further columns, each [batch] (of strings: a list) or one Python scalar for all rows. They may
                differ from step to step. `mode` is 0 (discrete) or 1 (latent).

        Raises:
            ValueError: a shape that does not fit, or a column name that the trace uses itself.
        """
        shape = token.shape
        if token.ndim != 1 or entropy.shape != shape:
            raise ValueError(
                f"token and entropy must have shape [batch]; got {tuple(shape)} and {tuple(entropy.shape)}."
            )
        if self._steps and self._steps[0].token.shape != shape:
            raise ValueError(
                f"Every step of a trace must have the same batch size; it began with {len(self._steps[0].token)} rows, "
                f"this step has {len(token)}. Keep finished rows and mark them with `active`."
            )
        for name, value in columns.items():
            if name in _GIVEN_BY_RECORDER:
                raise ValueError(f"The column name {name!r} belongs to the trace itself; choose another one.")
            found = value.shape if isinstance(value, Tensor) else (len(value),) if isinstance(value, list) else shape
            if found != shape:
                raise ValueError(f"Column {name!r} has shape {tuple(found)}; it must be {tuple(shape)} or a scalar.")
        if active is not None and active.shape != shape:
            raise ValueError(f"active has shape {tuple(active.shape)}; it must be {tuple(shape)}.")
        if candidates is not None:
            ids, weights = candidates
            if ids.ndim != 2 or ids.shape != weights.shape or len(ids) != len(token):
                raise ValueError(
                    f"candidates must be two tensors of shape [{len(token)}, k]; "
                    f"got {tuple(ids.shape)} and {tuple(weights.shape)}."
                )
        self._steps.append(_RecordedStep(token, entropy, active, candidates, columns))

    def finish(
        self, decode: Callable[[list[int]], str] | None = None, before: Sequence[list[int]] | None = None
    ) -> Trace:
        """Build the trace: here, and only here, values leave the device (one transfer per column).

        Args:
            decode: token ids -> text, e.g. `tokenizer.decode`. None: the text columns are null.
            before: per row the tokens from which its text is read on (the end of a prompt that it continues).

        Returns:
            The trace, ordered by row, then step. The recorder can go on recording; a later call covers everything.
        """
        steps = self._steps
        batch = len(steps[0].token) if steps else 0
        shape = (len(steps), batch)
        active = _gather([True if step.active is None else step.active for step in steps], shape)[0].astype(bool)
        keep = active.T  # [batch, steps]: row-major, so that a row's steps lie together

        data: dict[str, pa.Array] = {}
        rows = np.broadcast_to(np.arange(batch)[:, None], keep.shape)
        data["row"] = pa.array(rows[keep], pa.int64())
        data["step"] = pa.array((np.cumsum(keep, axis=1) - 1)[keep], pa.int64())
        tokens = _gather([step.token for step in steps], shape)[0].T
        data["token"] = pa.array(tokens[keep], pa.int64())
        single = _memoised(decode)
        pieces: list[str | None] = []
        for row in range(batch):
            ids = tokens[row][keep[row]].tolist()
            context = [] if before is None else before[row]
            pieces += [None] * len(ids) if decode is None else token_pieces(context + ids, decode)[len(context) :]
        data["text"] = pa.array(pieces, pa.string())
        data["entropy"] = pa.array(_gather([step.entropy for step in steps], shape)[0].T[keep], pa.float64())

        names = dict.fromkeys(name for step in steps for name in step.columns)  # in order of first appearance
        for name in ["mode", *(name for name in names if name != "mode")]:
            values, known = _gather([step.columns.get(name) for step in steps], shape)
            values, known = values.T[keep], known.T[keep]
            data[name] = _mode_names(values, known) if name == "mode" else pa.array(values, mask=~known)
        data["candidates"] = self._candidates(keep, single)
        return Trace(pa.table(data))

    def _candidates(self, keep: np.ndarray, single: Callable[[int], str | None]) -> pa.Array:
        lists: dict[tuple[int, int], list[dict[str, Any]]] = {}  # (row, step) -> candidates
        given = [(index, step.candidates) for index, step in enumerate(self._steps) if step.candidates is not None]
        by_width: dict[int, list[tuple[int, tuple[Tensor, Tensor]]]] = {}
        for index, pair in given:
            by_width.setdefault(pair[0].shape[1], []).append((index, pair))
        for group in by_width.values():  # one transfer per width k, which is nearly always one in all
            ids = _to_numpy([pair[0] for _, pair in group])  # [steps, batch, k]
            weights = _to_numpy([pair[1] for _, pair in group]).astype(np.float64)
            for position, (index, _) in enumerate(group):
                for row in np.flatnonzero(keep[:, index]).tolist():
                    entries = zip(ids[position, row].tolist(), weights[position, row].tolist(), strict=True)
                    chosen = [{"token": i, "text": single(i), "weight": w} for i, w in entries if w > 0]
                    if chosen:
                        lists[row, index] = chosen
        places = np.argwhere(keep).tolist()
        return pa.array([lists.get((row, index)) for row, index in places], CANDIDATES)


def token_pieces(tokens: Sequence[int], decode: Callable[[list[int]], str]) -> list[str]:
    """What each token adds to the text, so that the pieces joined are the decoded text.

    A token of a byte-level vocabulary can hold a part of a UTF-8 character: its piece is "" and the token that
    completes the character carries it. Each piece is the difference of two decodings of a short window, because
    decoding a token alone loses what depends on its left neighbour (spaces, in SentencePiece vocabularies).

    Args:
        tokens: [steps] ids.
        decode: token ids -> text.

    Returns:
        [steps] pieces. A character still incomplete at the end is carried, as U+FFFD, by the last token.
    """
    ids = list(tokens)
    pieces: list[str] = []
    prefix, read = 0, 0  # ids[prefix:read] is context that has been emitted, ids[read:] is pending
    context = ""  # decode(ids[prefix:read])
    emitted = 0  # characters of decode(ids[prefix:]) that some piece already carries
    for position in range(len(ids)):
        text = decode(ids[prefix : position + 1])
        last = position + 1 == len(ids)
        complete = text if last or position - read >= _MAX_PENDING else text.rstrip(_REPLACEMENT)
        pieces.append(complete[emitted:].encode("utf-8", "replace").decode("utf-8"))
        emitted = max(emitted, len(complete))
        if (len(complete) == len(text) > len(context)) or position - read >= _MAX_PENDING:
            prefix, read = read, position + 1
            context = decode(ids[prefix:read])
            emitted = len(context)
    return pieces


def _memoised(decode: Callable[[list[int]], str] | None) -> Callable[[int], str | None]:
    memo: dict[int, str | None] = {}

    def single(token: int) -> str | None:
        if token not in memo:
            memo[token] = None if decode is None else decode([token]).encode("utf-8", "replace").decode("utf-8")
        return memo[token]

    return single


def _to_numpy(tensors: list[Tensor]) -> np.ndarray:
    """Tensors of one shape, stacked and moved off the device at once: [len(tensors), ...]."""
    device = tensors[0].device
    stacked = torch.stack([tensor.to(device) for tensor in tensors]).detach()
    if stacked.is_floating_point():
        stacked = stacked.double()  # NumPy has no bfloat16
    return stacked.cpu().numpy()


def _gather(values: Sequence[Column], shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """One column over all steps: values [steps, batch] and which of them are known [steps, batch].

    The type is the narrowest that holds every value: bool, int64, float64 or, for strings, object.
    """
    known = np.zeros(shape, dtype=bool)
    tensor_steps = [index for index, value in enumerate(values) if isinstance(value, Tensor)]
    block = _to_numpy([value for value in values if isinstance(value, Tensor)]) if tensor_steps else None
    scalars = [
        (index, value) for index, value in enumerate(values) if value is not None and not isinstance(value, Tensor)
    ]
    kinds = {type(one) for _, value in scalars for one in (value if isinstance(value, list) else [value])}
    if block is not None:
        kinds.add({"b": bool, "f": float}.get(block.dtype.kind, int))
    if unknown := kinds - {bool, int, float, str}:
        raise TypeError(
            f"A trace column holds bool, int, float or str, not {', '.join(sorted(k.__name__ for k in unknown))}."
        )
    if str in kinds and len(kinds) > 1:
        raise TypeError("A trace column holds either strings or numbers, not both.")
    dtype: Any = next((kind for kind in (str, float, int, bool) if kind in kinds), float)
    result = np.zeros(shape, dtype=object if dtype is str else np.dtype(dtype))
    if block is not None:
        result[tensor_steps] = block
        known[tensor_steps] = True
    for index, value in scalars:
        result[index] = value
        known[index] = True
    return result, known


def _mode_names(values: np.ndarray, known: np.ndarray) -> pa.Array:
    names: dict[Any, str] = {**dict(enumerate(MODES)), **{name: name for name in MODES}}
    try:
        modes = [names[value] if there else None for value, there in zip(values.tolist(), known.tolist(), strict=True)]
    except KeyError as error:
        raise ValueError(
            f"The column `mode` holds 0 (discrete), 1 (latent) or one of these two names, not {error}."
        ) from error
    return pa.array(modes, pa.string())
