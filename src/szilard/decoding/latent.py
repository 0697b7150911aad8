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
    """Finds a marker (one token or several in a row) in what each row generates."""

    def __init__(self, ids: tuple[int, ...], device: torch.device) -> None:
        self.ids = ids
        self._ids = torch.tensor(ids, dtype=torch.long, device=device)

    def completed_by(self, tokens: torch.Tensor, state: DecodingState) -> torch.Tensor:
        """Whether the not yet committed `tokens` [batch] complete the marker; bool [batch]."""
        length = len(self.ids)
        if length == 0:
            return torch.zeros_like(tokens, dtype=torch.bool)
        hit = tokens == self._ids[-1]
        if length == 1 or state.tokens.shape[1] < length - 1:
            return hit if length == 1 else torch.zeros_like(hit)
        before = state.tokens[:, -(length - 1) :]  # [batch, length - 1]
        return hit & (before == self._ids[:-1]).all(1) & (state.generated >= length - 1)


class ForcedTokens:
    """Per row, tokens that the method itself puts into the output (a closing marker, an answer's first words)."""

    def __init__(self, batch: int) -> None:
        self._queues: list[deque[int]] = [deque() for _ in range(batch)]
        self._pending = False

    def queue(self, row: int, ids: Iterable[int]) -> None:
        """Replace the row's next tokens by `ids`."""
        self._queues[row] = deque(ids)
        self._pending = any(self._queues)

    def override(self, tokens: torch.Tensor) -> torch.Tensor:
        """`tokens` [batch] with the next forced token where a row has one."""
        if not self._pending:
            return tokens
        tokens = tokens.clone()
        for row, queue in enumerate(self._queues):
            if queue:
                tokens[row] = queue.popleft()
        self._pending = any(self._queues)
        return tokens


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
    theta alpha beta gamma delta lambda mu sigma omega boxed left right text mathrm mathbf begin end
""".split()
_MATH_PIECES = (
    *string.digits,
    *string.ascii_letters,
    *"+-*/=<>^_%!|&~",
    *"()[]{}",
    *"×÷±·≤≥≠≈∞√∑∏∫∂∇∈∉⊂⊆∪∩∀∃→⇒⇔°π",
    *(f"\\{command}" for command in _LATEX_COMMANDS),
)


def anchor_vector(state: DecodingState, anchor: str | Sequence[int] | torch.Tensor | None) -> torch.Tensor | None:
    """The vector that an uncertain stretch is anchored to, [hidden]: the mean input embedding of the anchor's tokens.

    Args:
        anchor: "auto" (the model's visual special tokens), other text (its tokens), ids, a vector, or None.

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
    ids = state.visual_tokens() if anchor == "auto" else token_ids(state, anchor, name="anchor")
    if not ids:
        return None
    rows = state.embed(torch.tensor(list(ids), device=state.device))
    return rows.float().mean(0).to(rows.dtype)
