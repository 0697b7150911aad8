"""A llama.cpp context: a key-value cache of sequences, and the batch that is fed to it."""

from __future__ import annotations

import contextlib
import ctypes
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from szilard.engines.llama_cpp_model import LlamaModel

BATCH = 2048  # tokens handed to llama.cpp at once
_MICRO_BATCH = 512  # tokens it computes at once
_NO_FLASH_ATTENTION = 0  # LLAMA_FLASH_ATTN_TYPE_DISABLED
_POSITION_AXES = 4  # positions per embedding in models with multimodal rotary positions


class LlamaContext:
    """One llama.cpp context: a key-value cache that a state and its forks share, and the batch that is fed to it.

    The cache belongs to its *holders* (states). When the last of them is closed or collected, it is freed.

    Args:
        model: the loaded model; kept alive by this object.
        cells: cache entries over all sequences to begin with.
        sequences: sequences to begin with.
    """

    def __init__(self, model: LlamaModel, *, cells: int, sequences: int) -> None:
        self.model = model
        self._lib = model.lib
        self._holders = 0
        self._abandoned: deque[int] = deque()  # sequences whose holder was collected; freed before the next work
        self._open(cells, sequences)

        # The batch: numpy arrays that llama.cpp reads in place.
        self._tokens = np.zeros(BATCH, np.int32)
        self._positions = np.zeros(BATCH * _POSITION_AXES, np.int32)
        self._sequences = np.zeros(BATCH, np.int32)
        self._outputs = np.zeros(BATCH, np.int8)
        self._counts = np.ones(BATCH, np.int32)  # sequences of each new entry
        self._own = self._sequences.ctypes.data + 4 * np.arange(BATCH, dtype=np.uint64)
        self._pointers = self._own.copy()
        kinds = dict(self._lib.llama_batch._fields_)
        self._vector_pointer = kinds["embd"]
        self._token_batch, self._vector_batch = self._lib.llama_batch(), self._lib.llama_batch()
        for batch in (self._token_batch, self._vector_batch):
            batch.pos = ctypes.cast(self._positions.ctypes.data, kinds["pos"])
            batch.n_seq_id = ctypes.cast(self._counts.ctypes.data, kinds["n_seq_id"])
            batch.seq_id = ctypes.cast(self._pointers.ctypes.data, kinds["seq_id"])
            batch.logits = ctypes.cast(self._outputs.ctypes.data, kinds["logits"])
        self._token_batch.token = ctypes.cast(self._tokens.ctypes.data, kinds["token"])

    # ---- sequences -------------------------------------------------------------------------------------------

    def acquire(self, count: int) -> list[int]:
        """Ids of `count` empty sequences.

        Raises:
            ValueError: more than llama.cpp can hold.
        """
        self._free_abandoned()
        if count > len(self._free):
            wanted = self._sequence_count + count - len(self._free)
            limit = self.model.most_sequences
            if wanted > limit:
                raise ValueError(
                    f"llama.cpp holds at most {limit} sequences at once (rows and their copies); this needs {wanted}."
                )
            self._reopen(self.cells, min(limit, max(wanted, 2 * self._sequence_count)))
        return [self._free.pop() for _ in range(count)]

    @property
    def available(self) -> int:
        """Sequences that `acquire` can still give out."""
        self._free_abandoned()
        return len(self._free) + self.model.most_sequences - self._sequence_count

    def release(self, sequences: list[int]) -> None:
        """Forget these sequences; their ids may be given out again."""
        for sequence in sequences:
            self.forget(sequence, 0)
            self._free.append(sequence)

    def copy(self, source: int, target: int) -> None:
        """Let the empty sequence `target` share all entries of `source`."""
        self._lib.llama_memory_seq_cp(self._memory, source, target, -1, -1)

    def forget(self, sequence: int, start: int) -> bool:
        """Drop a sequence's entries from position `start` on; False when this kind of cache cannot."""
        return bool(self._lib.llama_memory_seq_rm(self._memory, sequence, start, -1))

    def hold(self, holder: Any, sequences: list[int]) -> weakref.finalize:
        """Make `holder` the owner of `sequences` (changed in place only); calling the result gives them back."""
        self._holders += 1
        return weakref.finalize(holder, self._abandon, sequences)

    def _abandon(self, sequences: list[int]) -> None:
        # Runs wherever the garbage collector does, perhaps beside a `decode` of another thread: touch no cache here
        # unless nobody else is left to use it.
        self._abandoned.extend(sequences)
        self._holders -= 1
        if self._holders == 0:
            self._close()

    def _free_abandoned(self) -> None:
        while self._abandoned:
            self.release([self._abandoned.popleft()])

    # ---- work ------------------------------------------------------------------------------------------------

    def decode(
        self,
        *,
        sequences: np.ndarray | Sequence[Sequence[int]],
        positions: np.ndarray,
        outputs: np.ndarray | None,
        tokens: np.ndarray | None = None,
        embeddings: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Append to the cache and score.

        Args:
            sequences: of each new entry, int [new]; or all sequences that share it, a list for each.
            positions: of each new entry, int [new]; positions of a sequence follow on from its last.
            outputs: whose logits are wanted, bool [new]; None: everyone's.
            tokens: ids, int [new]; or
            embeddings: input vectors, float32 [new, input width], contiguous.

        Returns:
            Logits of the wanted entries in order, float32 [wanted, vocab] (a copy).

        Raises:
            ValueError: llama.cpp refuses the batch (an id outside the vocabulary).
            RuntimeError: it fails.
        """
        self._free_abandoned()
        vocab = self.model.vocab_size
        logits = torch.empty(len(positions) if outputs is None else int(outputs.sum()), vocab)
        written = 0
        for start in range(0, len(positions), self._batch_size):
            part = slice(start, min(start + self._batch_size, len(positions)))
            new = part.stop - start
            shared = None if isinstance(sequences, np.ndarray) else self._share(sequences[part])
            if isinstance(sequences, np.ndarray):
                self._sequences[:new] = sequences[part]
            self._outputs[:new] = 1 if outputs is None else outputs[part]
            self._positions[:new] = positions[part]
            if tokens is not None:
                batch = self._token_batch
                self._tokens[:new] = tokens[part]
            else:
                assert embeddings is not None
                batch = self._vector_batch
                batch.embd = ctypes.cast(embeddings[part].data_ptr(), self._vector_pointer)
                if self.model.position_axes > 1:  # the same for time, height and width; nothing for the fourth
                    self._positions[: 3 * new] = np.tile(positions[part], 3)
                    self._positions[3 * new : 4 * new] = 0
            batch.n_tokens = new
            code = self._lib.llama_decode(self._context, batch)
            while code == 1:  # no room: nothing was changed
                self._reopen(2 * self.cells + new, self._sequence_count)
                code = self._lib.llama_decode(self._context, batch)
            if shared is not None:
                self._counts[:new], self._pointers[:new] = 1, self._own[:new]
            if code == -1:
                raise ValueError(f"llama.cpp refuses the batch: token ids must be within 0..{vocab - 1}.")
            if code:
                raise RuntimeError(f"llama_decode failed with code {code}.")
            wanted = new if outputs is None else int(outputs[part].sum())
            if wanted:
                target = logits.data_ptr() + written * vocab * 4
                ctypes.memmove(target, self._lib.llama_get_logits(self._context), wanted * vocab * 4)
                written += wanted
        return logits

    def _share(self, sequences: Sequence[Sequence[int]]) -> np.ndarray:
        """Let the batch's entries belong to several sequences each; the result must live as long as they are read."""
        counts = np.array([len(ids) for ids in sequences], np.int32)
        flat = np.array([sequence for ids in sequences for sequence in ids], np.int32)
        self._counts[: len(counts)] = counts
        self._pointers[: len(counts)] = flat.ctypes.data + 4 * (counts.cumsum() - counts).astype(np.uint64)
        return flat

    # ---- the context itself ----------------------------------------------------------------------------------

    def _open(self, cells: int, sequences: int) -> None:
        lib = self._lib
        settings = lib.llama_context_default_params()
        settings.n_ctx = -(-max(cells, 256) // 256) * 256
        settings.n_batch, settings.n_ubatch = BATCH, _MICRO_BATCH
        settings.n_seq_max = sequences
        settings.n_threads = settings.n_threads_batch = self.model.threads
        settings.kv_unified = True  # one pool of entries: sequences may share them
        settings.swa_full = True  # sliding-window layers keep the past, so that it can be rewound
        settings.no_perf = True
        # On a CPU flash attention sums in float16: a tenth faster on a small model, but further from the float32
        # model's logits, and a row's logits depend more on its neighbours. Off is llama-cpp-python's default, too.
        settings.flash_attn_type = _NO_FLASH_ATTENTION
        self.model.log.clear()
        context = lib.llama_init_from_model(self.model.pointer, settings)
        if not context:
            raise RuntimeError(f"llama.cpp cannot make a context of {settings.n_ctx} entries: {self.model.log.text()}.")
        self._context = context
        self._memory = lib.llama_get_memory(context)
        self.cells = int(lib.llama_n_ctx(context))
        self._batch_size = min(BATCH, int(lib.llama_n_batch(context)))
        self._free = list(range(sequences - 1, -1, -1))
        self._sequence_count = sequences
        # The model must outlive the context, whatever order the interpreter tears things down in.
        self._close = weakref.finalize(self, _free_context, lib, context, self.model)

    def _reopen(self, cells: int, sequences: int) -> None:
        """A larger context with the same content."""
        lib, old, close_old = self._lib, self._context, self._close
        free, count = self._free, self._sequence_count
        size = lib.llama_state_get_size(old)
        content = (ctypes.c_uint8 * size)()
        written = lib.llama_state_get_data(old, content, size)
        self._open(cells, sequences)
        if lib.llama_state_set_data(self._context, content, written) != written:
            raise RuntimeError("llama.cpp cannot move the cache to a larger context.")
        self._free = [*range(sequences - 1, count - 1, -1), *free]
        close_old()


def _free_context(lib: Any, context: Any, model: Any) -> None:
    lib.llama_free(context)
    del model


@contextlib.contextmanager
def probe(model: LlamaModel) -> Iterator[Any]:
    """A small context of its own, as a function: inputs of two entries -> logits after the second, float32 [vocab]."""
    context = LlamaContext(model, cells=256, sequences=1)

    def logits(**inputs: Any) -> torch.Tensor:
        context.forget(0, 0)
        return context.decode(
            sequences=np.zeros(2, np.int32), positions=np.arange(2), outputs=np.array([False, True]), **inputs
        )[0]

    try:
        yield logits
    finally:
        context._close()
