"""The decoding state on llama.cpp: every row is a sequence of its own in one shared key-value cache.

Nothing is padded in the cache: a row has its own positions, so rows of different lengths need no special case, and
finished rows are left out of the batch. Copies of a row (`fork`, `select`) share its cache entries until they differ.
"""

from __future__ import annotations

import copy
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from szilard.decoding.state import DecodingState
from szilard.engines.llama_cpp_context import BATCH, LlamaContext
from szilard.engines.mixing import mix_rows

if TYPE_CHECKING:
    from szilard.engines.llama_cpp_model import LlamaModel
    from szilard.speculative.tree import DraftTree

_NO_HIDDEN_STATES = "the llama.cpp engine gives no hidden states; use engine='transformers'."
_FORKS_AT_ONCE = 8
_FIRST_ROOM = 512  # new tokens per row that a fresh cache has room for; it grows on demand


class LlamaCppState(DecodingState):
    """A batch on a llama.cpp model. Closed by `close`, as a context manager, or when it is collected.

    Args:
        model: the loaded model.
        prompt: token ids int64 [batch, prompt], left-padded.
        attention_mask: 1 for a token, 0 for padding, [batch, prompt].
        base: arguments of `DecodingState`.
    """

    def __init__(self, model: LlamaModel, prompt: torch.Tensor, attention_mask: torch.Tensor, **base: Any) -> None:
        super().__init__(prompt, **base)
        self.model = model
        self.size = model.size
        self._mask = attention_mask.bool()
        self._lengths = np.zeros(self.batch_size, np.int64)  # entries in the cache
        self._branches: dict[int, tuple[list[int], np.ndarray]] = {}  # of a tree that waits for `keep`, by row
        self._holding: weakref.finalize | None = None  # None: the cache is opened by the first verb
        self._closed = False

    def close(self) -> None:
        """Give the cache back, now; what was committed stays readable. Closing twice is fine."""
        self._closed = True
        if self._holding is not None:
            self._holding()

    def _open(self) -> None:
        room = _FIRST_ROOM if self.max_new_tokens is None else min(self.max_new_tokens, _FIRST_ROOM)
        cells = int(self._mask.sum()) + self.batch_size * room
        # Room for forks, which cost nothing until they are used, unless every sequence has a recurrent state.
        rows, most = self.batch_size, min(self.model.most_sequences, BATCH)  # a batch holds a token of each
        sequences = max(rows, min(_FORKS_AT_ONCE * rows, most)) if self.model.can_rewind else rows
        self._context = LlamaContext(self.model, cells=cells, sequences=sequences)
        self._ids = self._context.acquire(self.batch_size)  # the sequence of each row; changed in place only
        self._holding = self._context.hold(self, self._ids)

    def __enter__(self) -> LlamaCppState:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # ---- what a method may ask -------------------------------------------------------------------------------

    @property
    def context_window(self) -> int | None:
        return self.model.context_window

    @property
    def most_leaves(self) -> int:
        rows = self.batch_size - int(self.finished.sum())
        return 1 + self._context.available // max(rows, 1)

    @property
    def vocab_size(self) -> int:
        return self.model.vocab_size

    @property
    def embedding_matrix(self) -> torch.Tensor:
        return self.model.embedding_matrix

    @property
    def cached(self) -> torch.Tensor:
        return torch.from_numpy(self._lengths.copy())

    @property
    def prompt_mask(self) -> torch.Tensor:
        return self._mask.long()

    @property
    def can_rewind(self) -> bool:
        return self.model.can_rewind

    def visual_tokens(self, *, placeholder_only: bool = False) -> list[int]:
        return []

    # ---- the verbs -------------------------------------------------------------------------------------------

    def prefill(self, then: torch.Tensor | None = None, *, hidden_states: bool = False) -> torch.Tensor:
        """As `DecodingState.prefill`, in pieces of at most 2,048 tokens over all rows."""
        self._check_open()
        if hidden_states:
            raise ValueError(_NO_HIDDEN_STATES)
        self.cost.start()
        ids, mask = self.tokens[:, : self.prompt_width], self._mask
        if then is not None:
            ids, mask = torch.cat([ids, then], dim=1), torch.cat([mask, torch.ones_like(then, dtype=torch.bool)], dim=1)
        lengths = mask.sum(1).numpy()
        ends = lengths.cumsum()
        outputs = np.zeros(int(ends[-1]), bool)
        outputs[ends - 1] = True
        logits = self._context.decode(
            sequences=np.repeat(self._ids, lengths),
            positions=np.arange(ends[-1]) - np.repeat(ends - lengths, lengths),
            outputs=outputs,
            tokens=ids[mask].numpy(),
        )
        self._count(lengths, self._lengths)
        self._lengths = lengths.astype(np.int64)
        return logits

    def feed(
        self,
        tokens: torch.Tensor | None = None,
        embeddings: torch.Tensor | None = None,
        *,
        tree: DraftTree | None = None,
        seen: torch.Tensor | None = None,
        hidden_states: bool = False,
        rewindable: bool = False,
        only_last: bool = False,
    ) -> torch.Tensor:
        """As `DecodingState.feed`, in float32. Finished rows are not computed: their logits are zeros, their cache
        stays as it is, and they cost nothing."""
        self._check_open()
        if hidden_states:
            raise ValueError(_NO_HIDDEN_STATES)
        if seen is not None:
            raise ValueError("llama.cpp knows causal attention and draft trees only; use engine='transformers'.")
        if rewindable and not self.model.can_rewind:
            raise ValueError(f"{self.model.name} keeps a recurrent state that cannot be rewound.")
        if sum(given is not None for given in (tokens, embeddings, tree)) != 1:
            raise ValueError("feed takes either tokens or embeddings or a tree.")
        if tree is not None:
            return self._feed_tree(tree)
        given: Any = tokens if tokens is not None else embeddings
        if given.dim() == (1 if tokens is not None else 2):
            given = given[:, None]
        if given.shape[0] != self.batch_size:
            raise ValueError(f"feed got {given.shape[0]} rows for a batch of {self.batch_size}.")
        new = given.shape[1]
        everyone = not self._some_finished
        active = None if everyone else np.flatnonzero(~self.finished.numpy())
        ids, cached = np.array(self._ids, np.int32), self._lengths
        if active is not None:
            given, ids, cached = given[active], ids[active], cached[active]
        longest = int(cached.max(initial=0))
        if longest + new > self.model.context_window:
            raise ValueError(
                f"{self.model.name} has a context window of {self.model.context_window} tokens; a row holds "
                f"{longest} and was fed {new} more."
            )
        scored = 1 if only_last else new
        logits = self._context.decode(
            sequences=ids if new == 1 else ids.repeat(new),
            positions=cached if new == 1 else (cached[:, None] + np.arange(new)).ravel(),
            outputs=None if scored == new else np.tile(np.arange(new) == new - 1, len(ids)),
            **({"tokens": given.reshape(-1).numpy()} if tokens is not None else {"embeddings": self._as_input(given)}),
        ).view(len(ids), scored, self.vocab_size)
        self._count(new, cached)
        if active is None:
            self._lengths = cached + new
            return logits
        self._lengths[active] += new
        padded = logits.new_zeros(self.batch_size, scored, self.vocab_size)
        padded[active] = logits
        return padded

    def _feed_tree(self, tree: DraftTree) -> torch.Tensor:
        """Every path from the root to a leaf is a sequence; a node belongs to those that run through it."""
        if not self.model.can_rewind:
            raise ValueError(f"{self.model.name} keeps a recurrent state that cannot be rewound.")
        valid = tree.valid.cpu() & ~self.finished[:, None]
        longest = int((torch.from_numpy(self._lengths) + tree.depth.cpu().amax(1) + 1)[~self.finished].max())
        if longest > self.model.context_window:
            raise ValueError(
                f"{self.model.name} has a context window of {self.model.context_window} tokens; a draft tree would "
                f"reach {longest}."
            )
        ancestors = tree.ancestors.cpu().numpy()
        self._branches = {}
        sequences: list[list[int]] = []
        for row in torch.nonzero(~self.finished)[:, 0].tolist():
            leaves = tree.leaves(row)
            ids = [self._ids[row], *self._context.acquire(len(leaves) - 1)]
            for branch in ids[1:]:
                self._context.copy(ids[0], branch)
            through = ancestors[row][leaves]  # [leaves, nodes]: whether the path to a leaf runs through a node
            self._branches[row] = (ids, through)
            for node in range(int(valid[row].sum())):
                sequences.append([ids[leaf] for leaf in np.flatnonzero(through[:, node])])
        positions = torch.from_numpy(self._lengths)[:, None] + tree.depth.cpu()
        found = self._context.decode(
            sequences=sequences,
            positions=positions[valid].numpy(),
            outputs=None,
            tokens=tree.tokens.cpu()[valid].numpy(),
        )
        sizes = valid.sum(1).numpy()
        self._count(sizes[sizes > 0], self._lengths[sizes > 0])
        logits = found.new_zeros(*valid.shape, self.vocab_size)
        logits[valid] = found
        return logits

    def keep(self, path: torch.Tensor, counts: torch.Tensor) -> None:
        branches, self._branches = self._branches, {}
        for row, (ids, through) in branches.items():
            count = int(counts[row])
            chosen = ids[int(through[:, int(path[row, count - 1])].argmax())]
            self._lengths[row] += count
            self._context.forget(chosen, int(self._lengths[row]))
            self._ids[row] = chosen
            self._context.release([branch for branch in ids if branch != chosen])

    def _as_input(self, embeddings: torch.Tensor) -> torch.Tensor:
        """[batch, new, hidden] as llama.cpp reads it: float32 [batch x new, input width]."""
        vectors = embeddings.reshape(-1, embeddings.shape[-1]).to(torch.float32).contiguous()
        if vectors.shape[1] != self.model.hidden_size:
            raise ValueError(f"{self.model.name} takes vectors of {self.model.hidden_size}, not {vectors.shape[1]}.")
        extra = self.model.input_width - self.model.hidden_size  # image features of deeper layers: none here
        return torch.nn.functional.pad(vectors, (0, extra)) if extra else vectors

    def rewind(self, lengths: torch.Tensor) -> None:
        """As `DecodingState.rewind`; finished rows were not fed, so more than they hold may be asked of them."""
        self._check_open()
        wanted = np.where(self.finished.numpy(), np.minimum(lengths.numpy(), self._lengths), lengths.numpy())
        if (wanted > self._lengths).any() or (wanted < 0).any():
            raise ValueError(
                f"rewind can only shorten: rows hold {self._lengths.tolist()} entries, asked for {lengths.tolist()}."
            )
        for row in np.flatnonzero(wanted < self._lengths):
            if not self._context.forget(self._ids[row], int(wanted[row])):
                raise ValueError(f"{self.model.name} keeps a recurrent state that cannot be rewound.")
            self._lengths[row] = wanted[row]

    def fork(self, copies: int, rows: torch.Tensor | None = None) -> LlamaCppState:
        """As `DecodingState.fork`. Shares the cache entries so far; give it back early with `close`."""
        self._check_open()
        if copies < 1:
            raise ValueError(f"fork takes at least 1 copy, not {copies!r}.")
        twin = copy.copy(self)
        twin.streamer = twin.trace = twin.scores = twin.raw_logits = None
        chosen = torch.arange(self.batch_size) if rows is None else torch.arange(self.batch_size)[rows.cpu()]
        chosen = chosen.repeat_interleave(copies)
        twin._ids = self._context.acquire(len(chosen))
        twin._holding = self._context.hold(twin, twin._ids)
        for row, target in zip(chosen.tolist(), twin._ids, strict=True):
            self._context.copy(self._ids[row], target)
        twin._take(chosen)
        return twin

    def adopt(self, other: DecodingState) -> None:
        assert isinstance(other, LlamaCppState) and other.batch_size == self.batch_size
        mine = list(self._ids)
        self._ids[:] = other._ids
        other._ids[:] = mine
        self._lengths = other._lengths
        other.close()

    def join(self, other: DecodingState) -> None:
        assert isinstance(other, LlamaCppState) and other._context is self._context
        self._ids.extend(other._ids)
        other._ids.clear()
        other.close()
        self._lengths = np.concatenate([self._lengths, other._lengths])
        self._mask = torch.cat([self._mask, other._mask])
        self._join_text(other)

    def select(self, rows: torch.Tensor) -> None:
        self._check_open()
        wanted = torch.arange(self.batch_size)[rows.cpu()].tolist()  # refuses a row that is not there
        copies = self._context.acquire(len(wanted) - len(set(wanted)))
        ids: list[int] = []
        for row in wanted:
            source = self._ids[row]
            if source in ids:
                self._context.copy(source, copies[-1])
                source = copies.pop()
            ids.append(source)
        unwanted = [sequence for sequence in self._ids if sequence not in ids]
        self._ids[:] = ids
        self._context.release(unwanted)
        self._take(torch.tensor(wanted, dtype=torch.long))

    def _take(self, rows: torch.Tensor) -> None:
        """Let the bookkeeping follow: new row i is old row `rows[i]`."""
        self._lengths, self._mask = self._lengths[rows.numpy()], self._mask[rows]
        self._select_text(rows)

    def _check_open(self) -> None:
        if self._holding is None and not self._closed:
            self._open()
        elif self._closed:
            raise ValueError("this decoding state is closed; start another with engine.state(...).")

    def _count(self, new: np.ndarray | int, cached: np.ndarray) -> None:
        """Count one forward of `new[b]` tokens on top of `cached[b]` in each row b: what really ran, no padding."""
        past, rows = int(cached.sum()), len(cached)
        if isinstance(new, int):
            total, pairs = rows * new, new * past + rows * new * (new + 1) // 2
        else:
            total, pairs = int(new.sum()), int((new * cached + new * (new + 1) // 2).sum())
        if total == 0:
            return
        size, cost = self.size, self.cost
        cost.forward_passes[size.name] = cost.forward_passes.get(size.name, 0) + 1
        cost.tokens[size.name] = cost.tokens.get(size.name, 0) + total
        cost.layer_tokens[size.name] = cost.layer_tokens.get(size.name, 0) + total * size.layers
        held = (total + past) * size.kv_bytes_per_token
        cost.kv_bytes_held = max(cost.kv_bytes_held, held)
        cost.kv_bytes_read += held
        cost.flops += 2 * size.layer_parameters * total + 4 * size.attention_width * size.layers * pairs

    # ---- embeddings ------------------------------------------------------------------------------------------

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.embedding_matrix[tokens] * self.model.embedding_scale

    def unembed(self, hidden: torch.Tensor) -> torch.Tensor:
        raise ValueError(_NO_HIDDEN_STATES)

    def mix(self, probabilities: torch.Tensor, tokens: torch.Tensor | None = None) -> torch.Tensor:
        weight = self.embedding_matrix
        if tokens is None:
            mixed = mix_rows(probabilities, weight)
        else:
            mixed = torch.einsum("bk,bkh->bh", probabilities.to(weight.dtype), weight[tokens])
        return mixed * self.model.embedding_scale
