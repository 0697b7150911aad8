"""Lexical Unit Decoding: several tokens per forward wherever the tuned model is sure of them.

Sun, Zhang, Lin, Zhang, Zhang, Wang, Chen, Song, Zhang, Gai, Xiong 2024, "Decoding at the Speed of Thought: Harnessing
Parallel Decoding of Lexical Units for LLMs", arXiv 2405.15208. No code was released: the layout of the training data,
thresholds, window and the rule against repetition are reconstructions.

Behind the newest tokens k - 1 placeholders are fed. Output j of the window, with confidence c_j = max softmax and
y_j = argmax, j = 0 .. k-1, predicts the j-th token to come; output 0 is the ordinary next token. Taken are y_0 and the
leading y_j with c_j >= beta. Placeholders leave the cache again; taken tokens enter it with the next forward.

Taken tokens follow a first that is the likeliest one (inferred: where sampling drew another, they were predicted for a
text that is not there). The default of the training, `supervise="window"`, is ours, the paper's nearest is "unit".

Not lossless by design: a taken token is not conditioned on those beside it. With `verify` (ours) the next forward
checks them, and the text is exactly that of the tuned model, one token at a time.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from szilard.decoding.method import Method
from szilard.decoding.state import DecodingState
from szilard.engines.model_parts import weights_fingerprint
from szilard.information import entropy
from szilard.options import check_bool, check_choice, check_number
from szilard.speculative.lud.adapter import LudAdapter
from szilard.speculative.tree import DraftTree
from szilard.speculative.verify import verify_tree
from szilard.training.add_on import opened

if TYPE_CHECKING:
    from szilard.engines.engine import Engine


@dataclass(frozen=True)
class Lud(Method):
    """Tokens written several at a time by a tuned model.

    Attributes:
        adapter: a `LudAdapter`, or the folder or hub id of one; `szilard train lud` makes it.
        beta: least confidence of a token that is taken beside the next one; 1 or more: plain decoding.
        window: tokens looked at per forward, k; 1: plain decoding; None: as many as the adapter was trained for.
        acceptance: "prefix": leading tokens of at least that confidence; "all": the whole window or one token.
        stop_repeats: whether a token that repeats the one before it ends what is taken (form inferred).
        verify: whether tokens are checked by the next forward before they are written (ours).
    """

    slug: ClassVar[str] = "lud"
    family: ClassVar[str] = "speculative"
    paper: ClassVar[str] = "Sun et al. 2024, arXiv 2405.15208"
    needs: ClassVar[frozenset[str]] = frozenset({"logits", "rewind", "embeddings_in"})
    changes_model: ClassVar[bool] = True

    adapter: LudAdapter | str | None = None
    beta: float = 0.9
    window: int | None = None
    acceptance: str = "prefix"
    stop_repeats: bool = True
    verify: bool = False

    def __post_init__(self) -> None:
        check_number("beta", self.beta, low=0)
        check_number("window", self.window, low=1, integer=True, optional=True)
        check_choice("acceptance", self.acceptance, ("prefix", "all"))
        check_bool("stop_repeats", self.stop_repeats)
        check_bool("verify", self.verify)
        if isinstance(self.adapter, Path):
            object.__setattr__(self, "adapter", str(self.adapter))
        if self.adapter is not None and not isinstance(self.adapter, (str, LudAdapter)):
            raise TypeError(f"adapter must be a LudAdapter, its folder or hub id, not {self.adapter!r}.")

    @classmethod
    def neutral(cls) -> Lud:
        """One token at a time, by the model as it is."""
        return cls(window=1)

    @classmethod
    def from_pretrained(cls, folder: str | Path, **options: Any) -> Lud:
        """The method with the adapter in a folder or hub repository.

        Raises:
            ValueError: there is none, or it is broken.
        """
        return cls(adapter=LudAdapter.from_pretrained(folder), **options)

    def check(self, engine: Engine | None = None) -> None:
        """Refuse a missing adapter, a broken one, and one of another model."""
        adapter = self._adapter()
        if adapter is None:
            if self.window != 1 and self.beta < 1:
                raise ValueError(
                    "lud needs a model tuned for it: adapter='folder or hub id'; `szilard train lud --model ... "
                    "--data ... -o folder` makes one."
                )
        elif engine is not None:
            if engine.kind != "transformers":
                raise ValueError(f"lud changes a model's weights, which {engine.name} on {engine.kind} does not allow.")
            adapter.check_base(
                vocab_size=engine.vocab_size, hidden_size=None, name=engine.name, fingerprint=engine.fingerprint
            )

    def recorded_options(self, engine: Engine) -> dict[str, Any]:
        """The adapter by the hash of its weights."""
        adapter = self._adapter()
        return self.changed_options() | ({} if adapter is None else {"adapter": adapter.fingerprint})

    def _adapter(self) -> LudAdapter | None:
        return opened(LudAdapter, self.adapter) if isinstance(self.adapter, str) else self.adapter

    def decode(self, state: DecodingState) -> None:
        self.check()
        adapter = self._adapter()
        placeholder: torch.Tensor | None = None  # without an adapter nothing is put there
        tuned: Any = contextlib.nullcontext()
        if adapter is not None:
            rows = state.embedding_matrix
            adapter.check_base(
                vocab_size=state.vocab_size,
                hidden_size=rows.shape[1],
                name=state.model_name,
                fingerprint=weights_fingerprint(state.model),  # type: ignore[attr-defined]
            )
            placeholder = adapter.placeholder.detach().to(rows)
            tuned = adapter.applied(state.model)  # type: ignore[attr-defined]
        window = self.window or (1 if adapter is None else adapter.window)
        with tuned:
            self._run(state, placeholder, 1 if self.beta >= 1 else window)

    def _run(self, state: DecodingState, placeholder: torch.Tensor | None, window_tokens: int) -> None:
        logits = state.prefill()
        tokens = state.choose(logits)
        if state.trace is not None:
            state.record(tokens, entropy(logits), accepted=1)
        state.commit(tokens)
        rows = torch.arange(state.batch_size, device=state.device)
        one = torch.ones_like(rows)
        fresh, counts = tokens[:, None], one  # of each row, tokens that the cache has yet to read
        while not state.done:
            before, width = state.cached.to(state.device), fresh.shape[1]
            ahead = window_tokens - 1
            if state.context_window is not None:  # placeholders that fit into the context
                ahead = max(0, min(ahead, state.context_window - int(before.max()) - width))
            fed = self._feed(state, fresh, counts, placeholder, ahead)  # [batch, width + ahead, vocab]
            state.cost.count("target_forwards")
            state.cost.count("slots", int(((counts + ahead) * ~state.finished).sum()))
            checked, whole = None, torch.ones_like(state.finished)
            if self.verify:
                checked = verify_tree(state, _chain(fresh, counts), fed[:, :width])
                whole = checked.counts == counts
                state.rewind(before + checked.counts)
            else:
                state.rewind(before + counts)
            last = (counts - 1)[:, None] + torch.arange(ahead + 1, device=state.device)
            window = fed[rows[:, None], last].float()  # [batch, 1 + ahead, vocab]
            if checked is None:
                first = state.choose(window[:, 0], text=state.tokens)  # rows are at places of their own
            else:
                first = checked.tokens.gather(1, checked.counts[:, None] - 1)[:, 0]
            span, taken, confidence = self._span(state, window, first)
            taken = torch.where(whole, taken, one)
            if checked is None:
                taken = self._within(state, taken)
                for column in range(1, int(taken.max())):  # the first was kept when it was chosen
                    state.keep_scores(window[:, column], window[:, column], ahead=column)
                self._commit(state, span, taken, window, confidence)
                counts = taken
            else:
                self._commit(state, checked.tokens, checked.counts, fed, None)
                counts = self._within(state, taken)
            fresh = span[:, : max(1, int(counts.max()))]
        state.cut_scores()

    def _within(self, state: DecodingState, taken: torch.Tensor) -> torch.Tensor:
        """No more than may still be written, and than the fullest row's context has room for; one for finished rows."""
        if state.max_new_tokens is not None:
            taken = torch.minimum(taken, state.max_new_tokens - state.generated)
        if state.context_window is not None:  # all rows are fed as many slots
            taken = taken.clamp(max=state.context_window - int(state.cached.max()))
        return torch.where(state.finished, 1, taken).clamp(min=1)

    def _feed(
        self,
        state: DecodingState,
        fresh: torch.Tensor,
        counts: torch.Tensor,
        placeholder: torch.Tensor | None,
        ahead: int,
    ) -> torch.Tensor:
        """Each row's fresh tokens, placeholders behind them, and more of those up to the longest row."""
        if ahead == 0 and fresh.shape[1] == 1:
            return state.feed(fresh, rewindable=True)
        assert placeholder is not None
        embedded = state.embed(fresh)
        real = torch.arange(fresh.shape[1], device=fresh.device) < counts[:, None]
        embedded = torch.where(real[..., None], embedded, placeholder)
        tail = placeholder.expand(len(fresh), ahead, -1)
        return state.feed(embeddings=torch.cat([embedded, tail], dim=1), rewindable=True)

    def _span(
        self, state: DecodingState, window: torch.Tensor, first: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Tokens [batch, k] of a window, how many of them are taken, and every confidence [batch, k].

        The first is chosen by the run's own rule; others are taken only behind a first that is the likeliest one.
        """
        confidence, best = torch.softmax(window, dim=-1).max(-1)
        if state.do_sample and self.beta <= 0.5 and window.shape[1] > 1:  # else no more than one token qualifies
            chances = torch.softmax(window[:, 1:], dim=-1)
            kept = torch.where(chances >= self.beta, chances, 0.0)
            kept = torch.where(kept.sum(-1, keepdim=True) > 0, kept, chances)
            drawn = torch.multinomial(kept.flatten(0, 1), 1, generator=state.generator).view(best[:, 1:].shape)
            best = torch.cat([best[:, :1], drawn], dim=1)
        sure = (confidence >= self.beta) & (best[:, :1] == first[:, None])
        span = torch.cat([first[:, None], best[:, 1:]], dim=1)
        if self.stop_repeats:
            sure[:, 1:] &= span[:, 1:] != span[:, :-1]
        leading = sure.long().cumprod(1).sum(1)
        if self.acceptance == "all":
            leading = torch.where(leading == span.shape[1], leading, 1)
        return span, leading.clamp(min=1), confidence

    def _commit(
        self,
        state: DecodingState,
        tokens: torch.Tensor,
        counts: torch.Tensor,
        logits: torch.Tensor,
        confidence: torch.Tensor | None,
    ) -> None:
        running, before = ~state.finished, state.generated.clone()
        if state.trace is None:
            state.commit(tokens, counts)
        else:
            for column in range(tokens.shape[1]):
                moving = counts > column
                more = {} if confidence is None else {"confidence": confidence[:, column]}
                state.record(tokens[:, column], entropy(logits[:, column]), active=moving, accepted=counts, **more)
                state.commit(tokens[:, column], moving.long())
                if state.done:
                    break
        spans = torch.bincount((state.generated - before)[running]).tolist()
        state.cost.count("row_steps", sum(spans))
        state.cost.count("accepted", sum((length - 1) * rows for length, rows in enumerate(spans) if rows))
        for length, rows in enumerate(spans):
            if rows:
                state.cost.count(f"span_{length}", rows)


def _chain(fresh: torch.Tensor, counts: torch.Tensor) -> DraftTree:
    """The fresh tokens as a chain whose root, the first, is committed."""
    nodes = fresh.shape[1]
    parent = torch.arange(-1, nodes - 1, device=fresh.device).expand(len(fresh), -1)
    return DraftTree(fresh, parent, torch.arange(nodes, device=fresh.device) < counts[:, None])
