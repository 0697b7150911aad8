"""What the methods that think in embeddings share: markers in the output, forced text, structural tokens, anchors."""

from __future__ import annotations

import string
from collections import deque
from collections.abc import Iterable, Sequence

import torch

from szilard.decoding.state import DecodingState

CANDIDATES_SHOWN = 5  # top tokens of a mixture kept in the trace


def token_ids(state: DecodingState, text: str | Sequence[int] | None, *, name: str) -> tuple[int, ...]:
    """Ids of a marker given as text or ids; empty when there is none, or no tokenizer to find it with.

    Raises:
        ValueError: an id outside the vocabulary.
    """
    if text is None:
        return ()
    if isinstance(text, str):
        if not text or state.encode is None:
            return ()
        try:
            ids = tuple(state.encode(text))
        except LookupError:
            return ()
    else:
        ids = tuple(int(token) for token in text)
    if bad := [token for token in ids if not 0 <= token < state.vocab_size]:
        raise ValueError(f"{name}: token id {bad[0]} is outside the model's vocabulary of {state.vocab_size}.")
    return ids


class Marker:
    """Finds a marker in what each row generates.

    A marker that is no single token is spelled differently beside other characters ("</think>" before a blank line may
    end in the token ">\\n\\n"), so a marker given as text is looked for in the spellings that its neighbours cause.

    Attributes:
        ids: its plain spelling; empty when there is no marker.
    """

    def __init__(self, state: DecodingState, marker: str | Sequence[int] | None, *, name: str) -> None:
        self.ids = token_ids(state, marker, name=name)
        spellings = {self.ids} if self.ids else set()
        if isinstance(marker, str) and len(self.ids) > 1:
            spellings |= _spellings_beside_others(state, marker)
        self._spellings = [torch.tensor(ids, device=state.device) for ids in sorted(spellings)]
        self._last = torch.tensor(sorted({ids[-1] for ids in spellings}), dtype=torch.long, device=state.device)

    def completed_by(self, tokens: torch.Tensor, state: DecodingState) -> torch.Tensor:
        """Whether the not yet committed `tokens` [batch] complete the marker; bool [batch]."""
        found = torch.zeros_like(tokens, dtype=torch.bool)
        if not self._spellings:
            return found
        if len(self.ids) == 1:
            return tokens == self._last[0]
        if not bool(torch.isin(tokens, self._last).any()):
            return found
        for ids in self._spellings:
            before = len(ids) - 1
            if state.tokens.shape[1] >= before:
                same = (tokens == ids[-1]) & (state.tokens[:, state.tokens.shape[1] - before :] == ids[:-1]).all(1)
                found = found | (same & (state.generated >= before))
        return found

    def ends_prompt(self, state: DecodingState) -> torch.Tensor:
        """Rows whose prompt closes with the marker (a chat template that switches thinking off), bool [batch]."""
        found = torch.zeros_like(state.finished)
        for ids in self._spellings:
            tail = state.tokens[:, -(len(ids) + _AFTER_MARKER) :]
            if tail.shape[1] >= len(ids):
                found = found | (tail.unfold(1, len(ids), 1) == ids).all(-1).any(-1)
        return found


_AFTER_MARKER = 3  # tokens (line breaks) that a template may put between the marker and the answer


def _spellings_beside_others(state: DecodingState, text: str) -> set[tuple[int, ...]]:
    found = set()
    for before in ("", " ", ".", "\n", ")"):
        for after in ("", " ", "\n", "\n\n"):
            ids = token_ids(state, before + text + after, name="marker")
            start, end = (token_ids(state, part, name="marker") for part in (before, after))
            if start and ids[: len(start)] == start:
                ids = ids[len(start) :]
            if end and ids[-len(end) :] == end:
                ids = ids[: -len(end)]
            found.add(ids)
    return {ids for ids in found if ids}


class ForcedTokens:
    """Per row, tokens that the method itself puts into the output (a closing marker, an answer's first words)."""

    def __init__(self, state: DecodingState) -> None:
        self._queues: list[deque[int]] = [deque() for _ in range(state.batch_size)]
        self.speaking = torch.zeros_like(state.finished)  # rows whose token of this step is forced
        self._spoke = False

    def queue(self, row: int, ids: Iterable[int]) -> None:
        """Have the row say `ids` next, after what it is already made to say."""
        self._queues[row].extend(ids)

    def override(self, tokens: torch.Tensor) -> torch.Tensor:
        """`tokens` [batch] with the next forced token where a row has one."""
        if not any(self._queues):
            if self._spoke:
                self._spoke, self.speaking = False, torch.zeros_like(self.speaking)
            return tokens
        self._spoke = True
        self.speaking = torch.tensor([bool(queue) for queue in self._queues], device=tokens.device)
        forced = [queue.popleft() if queue else 0 for queue in self._queues]
        return torch.where(self.speaking, torch.tensor(forced, device=tokens.device), tokens)


def structural_token_mask(state: DecodingState, tokens: str | Iterable[int] | None) -> torch.Tensor | None:
    """Tokens that are always fed as themselves, bool [vocab]; None when there are none.

    "math" stands for every sub-token of digits, single Latin letters, operators, brackets and LaTeX commands
    (SwiReasoning's rule).
    """
    if tokens is None:
        return None
    if tokens == "math":
        ids = {token for piece in _MATH_PIECES for token in token_ids(state, piece, name="structural_tokens")}
    elif isinstance(tokens, str):
        raise ValueError(f"structural_tokens must be None, 'math' or a set of token ids, not {tokens!r}.")
    else:
        ids = set(token_ids(state, tuple(tokens), name="structural_tokens"))
    if not ids:
        return None
    mask = torch.zeros(state.vocab_size, dtype=torch.bool, device=state.device)
    mask[sorted(ids)] = True
    return mask


_LATEX_COMMANDS = """
    frac dfrac tfrac sqrt sum prod int lim log ln exp sin cos tan cdot times div pm leq geq neq approx infty pi
    theta alpha beta gamma delta lambda mu sigma omega boxed left right text mathrm mathbf begin end sim equiv to
    in notin subset supset cup cap epsilon dots ldots mathbb overline mid forall exists min max operatorname
""".split()
_MATH_PIECES = (
    *string.digits,
    *string.ascii_letters,
    *"+-*/=<>^_|",
    *"()[]{}",
    *(f"\\{command}" for command in _LATEX_COMMANDS),
)


def anchor_vector(state: DecodingState, anchor: str | Sequence[int] | torch.Tensor | None) -> torch.Tensor | None:
    """The vector that an uncertain stretch is anchored to, [hidden]: the mean input embedding of the anchor's tokens.

    Args:
        anchor: "auto" (the model's visual special tokens), "image" (its image placeholder alone), other text (its
            tokens), ids, a vector, or None.

    Returns:
        None when there is nothing to anchor to.

    Raises:
        ValueError: a vector of the wrong size.
    """
    if anchor is None:
        return None
    hidden = state.embedding_matrix.shape[1]
    if isinstance(anchor, torch.Tensor) and anchor.is_floating_point():
        if anchor.shape != (hidden,):
            raise ValueError(f"anchor must be a vector of {hidden} numbers for this model, not {tuple(anchor.shape)}.")
        return anchor.to(state.embedding_matrix)
    if isinstance(anchor, torch.Tensor):
        anchor = anchor.tolist()
    if isinstance(anchor, str) and anchor in ("auto", "image"):
        ids = state.visual_tokens(placeholder_only=anchor == "image")
    else:
        ids = list(token_ids(state, anchor, name="anchor"))
    if not ids:
        return None
    rows = state.embed(torch.tensor(list(ids), device=state.device))
    return rows.float().mean(0).to(rows.dtype)
