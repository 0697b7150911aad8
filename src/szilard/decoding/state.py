"""The narrow waist of autoregressive decoding: a batch of sequences in the middle of being generated.

A method talks to these verbs and to nothing below them, and so runs on every engine:

    logits = state.prefill()                     # [batch, vocab]: the token after the prompt
    while True:
        tokens = state.choose(logits)            # processors, then argmax or a draw
        state.commit(tokens)                     # final: text, streamer, stopping criteria
        if state.done:
            break
        logits = state.feed(tokens)[:, -1]       # or feed(embeddings=...): a latent step

Invariants
- `tokens` holds all committed tokens of every row, right-aligned (shorter rows are padded on the left). The last one
  is *pending*: committed and streamed, not yet in the cache. A latent step feeds a vector in its place.
- The cache of every row is contiguous and right-aligned too, so a distance in slots is a distance in positions and
  attention masks, sliding windows and rotary positions need no special case, however differently rows advance.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import LogitsProcessorList, StoppingCriteriaList

from szilard.decoding.cost import Cost, ModelSize
from szilard.decoding.recorder import TraceRecorder
from szilard.decoding.text import NAN_LOGITS, CommittedText
from szilard.decoding.warpers import reads_text

if TYPE_CHECKING:
    from szilard.speculative.tree import DraftTree


class DecodingState(CommittedText, ABC):
    """A batch of sequences being generated. Engines implement the abstract verbs; the bookkeeping is shared.

    Args:
        prompt: committed prompt tokens, int64 [batch, prompt], left-padded.
        logits_processor: applied to the logits of the choice, never to what a method measures.
        stopping_criteria: Hugging Face criteria; a length limit is taken out and kept per row.
        do_sample: whether `choose` draws or takes the argmax.
        pad_token_id: what finished rows are filled with.
        streamer: gets every committed token (`put`) and the end (`end`).
        keep_scores / keep_logits: keep the processed / raw logits of every choice (off: no second copy).
        trace: a recorder, or None for no trace.
        cost: the counts to add to.
        generator: source of the draws; None: PyTorch's default generator, as in `generate`.
        encode: text -> token ids without special tokens, or None when no tokenizer is known.
        decode: token ids -> text, or None when no tokenizer is known.

    Attributes:
        size: the figures of the model under which this state counts its work.
    """

    size: ModelSize
    hidden: torch.Tensor | None = None  # of the last feed or prefill, where it was asked for

    def __init__(
        self,
        prompt: torch.Tensor,
        *,
        logits_processor: LogitsProcessorList | None = None,
        stopping_criteria: StoppingCriteriaList | None = None,
        do_sample: bool = False,
        pad_token_id: int = 0,
        streamer: Any = None,
        keep_scores: bool = False,
        keep_logits: bool = False,
        trace: TraceRecorder | None = None,
        cost: Cost | None = None,
        generator: torch.Generator | None = None,
        encode: Callable[[str], list[int]] | None = None,
        decode: Callable[[list[int]], str] | None = None,
    ) -> None:
        super().__init__(
            prompt,
            stopping_criteria=stopping_criteria,
            pad_token_id=pad_token_id,
            streamer=streamer,
            keep_scores=keep_scores,
            keep_logits=keep_logits,
        )
        self.logits_processor = logits_processor if logits_processor is not None else LogitsProcessorList()
        self.do_sample = do_sample
        self.trace = trace
        self.cost = cost if cost is not None else Cost()
        self.generator = generator
        self.encode = encode
        self.decode = decode
        self.cost.batch_size = max(self.cost.batch_size, len(prompt))

    # ---- what a method may ask -------------------------------------------------------------------------------

    @property
    def model_name(self) -> str:
        """What to call the model: its name, or the last part of where it came from, or its class."""
        model = getattr(self, "model", None)
        name = getattr(model, "name", None) or getattr(model, "name_or_path", None)
        return Path(str(name)).name if name else type(model).__name__

    @property
    def lengths(self) -> torch.Tensor:
        """Committed tokens of every row, padding not counted, int64 [batch]."""
        return self.prompt_mask.sum(1) + self.generated

    @property
    @abstractmethod
    def context_window(self) -> int | None:
        """Longest row in tokens; None when the model sets no bound."""

    @property
    def most_leaves(self) -> int | None:
        """Leaves that a draft tree may have in each unfinished row; None: no bound."""
        return None

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """Width of the logits."""

    @property
    @abstractmethod
    def embedding_matrix(self) -> torch.Tensor:
        """The effective input embeddings' weights, [rows, hidden] (without the layer's scale, see `mix`)."""

    @property
    @abstractmethod
    def cached(self) -> torch.Tensor:
        """Real (unpadded) entries in the cache, int64 [batch]."""

    @property
    @abstractmethod
    def prompt_mask(self) -> torch.Tensor:
        """1 for a token of the prompt, 0 for padding, int64 [batch, prompt]."""

    @property
    @abstractmethod
    def can_rewind(self) -> bool:
        """Whether `rewind` works on this model's cache (not with recurrent layers)."""

    @abstractmethod
    def visual_tokens(self, *, placeholder_only: bool = False) -> list[int]:
        """Ids of the model's visual special tokens (start, image placeholder, end); empty for a text model."""

    # ---- the verbs that touch the model ----------------------------------------------------------------------

    @abstractmethod
    def prefill(self, then: torch.Tensor | None = None, *, hidden_states: bool = False) -> torch.Tensor:
        """Run the prompt, and in the same forward the tokens `then` (int64 [batch, new]) behind it.

        Args:
            hidden_states: also keep the last layer's output (after the final norm) as `state.hidden`,
                [batch, prompt + new, hidden], padded on the left like the prompt.

        Returns:
            The logits after the last of them, [batch, vocab].
        """

    @abstractmethod
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
        """Append to the cache and score.

        Args:
            tokens: int64 [batch] or [batch, new]; or
            embeddings: float [batch, new, hidden] (or [batch, hidden]), input vectors in the tokens' place; or
            tree: draft trees whose roots are the pending tokens: every node sees the text and its ancestors. `keep`
                must follow before anything else is fed.
            seen: which of the new positions each of them sees, bool [new, new] (query, key); what is cached they all
                see. None: itself and those before it.
            hidden_states: also keep the last layer's output as `state.hidden`, [batch, new, hidden].
            rewindable: promise that `rewind` can undo this feed even where a sliding-window cache would forget.
            only_last: compute the logits of the last position only.

        Returns:
            Logits [batch, new, vocab] in the model's dtype; with `only_last` [batch, 1, vocab].
        """

    @abstractmethod
    def keep(self, path: torch.Tensor, counts: torch.Tensor) -> None:
        """Of the tree that was just fed keep one path per row, and forget the other nodes.

        Args:
            path: nodes from the root on, in order, int64 [batch, longest]; what stands behind `counts` is ignored.
            counts: nodes of the path, the root included, int64 [batch].
        """

    @abstractmethod
    def rewind(self, lengths: torch.Tensor) -> None:
        """Forget the cache's tail: row b keeps its first `lengths[b]` real entries (int64 [batch])."""

    @abstractmethod
    def fork(self, copies: int, rows: torch.Tensor | None = None) -> DecodingState:
        """An independent state in which each of `rows` (int64; None: every row) stands `copies` times in a row.

        Its work counts to the same cost; it has no streamer and no trace.
        """

    @abstractmethod
    def select(self, rows: torch.Tensor) -> None:
        """Keep and reorder rows, in place: new row i is old row `rows[i]` (int64 [new batch])."""

    @abstractmethod
    def adopt(self, other: DecodingState) -> None:
        """Take over the cache of a fork with as many rows; the text stays, and `other` is used up."""

    @abstractmethod
    def join(self, other: DecodingState) -> None:
        """Append the rows of `other`, a fork of the same state as this one, and their cache; `other` is used up."""

    @property
    def can_extend(self) -> bool:
        """Whether `extend` works on this model's cache."""
        return False

    def extend(self, other: DecodingState) -> None:
        """Append the rows of `other`, which reads other prompts on the same model, and their cache; it is used up.

        Raises:
            ValueError: the cache cannot hold rows of different age (see `can_extend`).
        """
        raise ValueError(f"{self.model_name} takes no further rows while it decodes.")

    @abstractmethod
    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """What the model would look up for these ids: [...] -> [..., hidden]."""

    @abstractmethod
    def unembed(self, hidden: torch.Tensor) -> torch.Tensor:
        """The model's logits of last-layer hidden states: [..., hidden] -> [..., vocab].

        Raises:
            ValueError: the engine gives no hidden states.
        """

    @abstractmethod
    def mix(self, probabilities: torch.Tensor, tokens: torch.Tensor | None = None) -> torch.Tensor:
        """Probability-weighted sum of input embeddings, accumulated in float32, in the embeddings' dtype.

        Args:
            probabilities: float [batch, vocab], or [batch, k] weights of `tokens`.
            tokens: int64 [batch, k] that the weights belong to; None: the whole vocabulary in order.

        Returns:
            [batch, hidden]: a one-hot row gives exactly `embed` of that token.
        """

    def close(self) -> None:
        """Give the cache back, now, where the engine can; what was committed stays readable."""

    # ---- choosing and recording ------------------------------------------------------------------------------

    def choose(
        self,
        logits: torch.Tensor,
        *,
        processors: Sequence[Any] | None = None,
        do_sample: bool | None = None,
        generator: torch.Generator | None = None,
        text: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The next token of every row by the ordinary rule: processors, then argmax or one draw.

        Args:
            logits: raw next-token logits [batch, vocab]; left untouched.
            text: what the processors see in the place of the committed tokens, int64 [batch, width].
            processors: used instead of the run's own list.
            do_sample: used instead of the run's own setting.
            generator: source of the draw, used instead of the run's own.

        Returns:
            int64 [batch]; finished rows get the padding token.

        Raises:
            ValueError: the logits hold NaN.
        """
        scores = self._processed(logits, self.logits_processor if processors is None else processors, text)
        if self.do_sample if do_sample is None else do_sample:
            probabilities = torch.softmax(scores, dim=-1)
            generator = generator or self.generator
            try:
                tokens = torch.multinomial(probabilities, num_samples=1, generator=generator).squeeze(1)
            except RuntimeError as error:
                nothing_left = bool((scores == -torch.inf).all(-1).any())
                raise ValueError(_NO_TOKEN_LEFT if nothing_left else NAN_LOGITS) from error
            self.watch(torch.gather(scores, 1, tokens[:, None]))
        else:
            chosen, tokens = _likeliest(scores)
            self.watch(chosen)  # a NaN if there is one
        self.keep_scores(scores, logits, ahead=None if text is None else text.shape[1] - self._width)
        return self.pad(tokens)

    def probabilities(self, logits: torch.Tensor, *, text: torch.Tensor | None = None) -> torch.Tensor:
        """What `choose` draws from, float32 [rows, vocab]: the softmax of the processed logits [rows, vocab].

        Args:
            text: what the processors see, int64 [rows, width].
        """
        return torch.softmax(self._processed(logits, self.logits_processor, text), dim=-1)

    def _processed(self, logits: torch.Tensor, processors: Sequence[Any], text: torch.Tensor | None) -> torch.Tensor:
        text = self.tokens if text is None else text
        if self._ragged and len(logits) == self.batch_size and reads_text(processors):
            # Rows that were left behind are padded further than in plain decoding, which a processor would see.
            found = logits.to(torch.float32)
            for shift in self._shift[~self.finished].unique().tolist():
                own = _process(logits, processors, text[:, shift:])
                found = torch.where((self._shift == shift)[:, None], own, found)
            return found
        return _process(logits, processors, text)

    def record(
        self, token: torch.Tensor, entropy: torch.Tensor, *, active: torch.Tensor | None = None, **columns: Any
    ) -> None:
        """Add one step to the trace, if there is one (call before `commit`). Columns are [batch] or plain values.

        `active`: of the unfinished rows those that take this step, bool [batch]; None: all.
        """
        if self.trace is not None:
            running = ~self.finished
            self.trace.add(
                token=token, entropy=entropy, active=running if active is None else running & active, **columns
            )

    def finish(self) -> None:
        """End of the run: closes the streamer and the clock."""
        if self.streamer is not None:
            self.streamer.end()
        self.cost.generated_tokens += int(self.generated.sum())
        self.cost.stop()


def _process(logits: torch.Tensor, processors: Sequence[Any], text: torch.Tensor) -> torch.Tensor:
    scores = logits.to(torch.float32, copy=bool(processors))
    for processor in processors:
        scores = processor(text, scores)
    return scores


def _likeliest(scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Value and index of the largest entry of each row, the first NaN if there is one; [batch, vocab] -> [batch]."""
    if scores.device.type != "cpu":
        return scores.max(dim=-1)
    tokens = torch.from_numpy(scores.detach().numpy().argmax(axis=-1))  # a tenth of the time of PyTorch's on a CPU
    return scores.gather(1, tokens[:, None])[:, 0], tokens


_NO_TOKEN_LEFT = "the logits processors forbid every token of the vocabulary, so none can be drawn: allow some."
