"""How varied are texts? Type-token ratio, repeated n-grams, loops, and BLEU among texts.

For the ids x_1 .. x_n of one text:

    TTR        = |{x_(n-w+1) .. x_n}| / min(n, w)          type-token ratio of the last w tokens
    distinct-n = |{(x_i .. x_(i+n-1))}| / (number of n-grams)   repeated n-gram rate = 1 - distinct-n
    self-BLEU  = mean over texts of BLEU(text; all the others)   low: the texts differ

The type-token ratio is of tokens, not of words, as in Carlsson et al. 2024 (arXiv 2412.04318) and its released code.
It rewards garbage and short texts: compare texts of one length, and read them. BLEU is sacrebleu's; Self-BLEU is that
of Zhu et al. 2018 (Texygen, arXiv 1802.01886).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

Ids = Sequence[int] | Tensor
TextOrIds = str | Sequence[int]


def type_token_ratio(ids: Ids, window: int | None = 96) -> float:
    """Share of different tokens among the last ones.

    Args:
        ids: tokens of a text without its context, [n].
        window: how many of the last tokens count (96 in the paper); None: all.

    Returns:
        In (0, 1]; 1/n for n times the same token; NaN for no tokens.

    Raises:
        ValueError: ids of more than one axis, or a window below 1.
    """
    if window is not None and window < 1:
        raise ValueError(f"window must be at least 1 token or None, not {window!r}.")
    tokens = _row(ids)
    if window is not None:
        tokens = tokens[-window:]
    return len(tokens.unique()) / len(tokens) if len(tokens) else float("nan")


def distinct_n(ids: Ids, n: int = 2) -> float:
    """Share of different n-grams among all n-grams of a text: [tokens] -> (0, 1]; NaN for fewer than n tokens.

    Raises:
        ValueError: n below 1.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, not {n!r}.")
    tokens = _row(ids)
    if len(tokens) < n:
        return float("nan")
    grams = tokens.unfold(0, n, 1)  # [n-grams, n]
    return len(grams.unique(dim=0)) / len(grams)


def repeated_ngram_rate(ids: Ids, n: int = 2) -> float:
    """Share of n-grams that repeat an earlier one, 1 - distinct-n; NaN for fewer than n tokens."""
    return 1.0 - distinct_n(ids, n)


def ends_in_loop(ids: Ids, *, repeats: int = 3, least: int = 12) -> bool:
    """Whether a text ends by saying the same again and again.

    It does if for some period p its last max(`repeats` p, `least`) tokens each equal the token p before, or have none
    before them in that stretch.

    Args:
        ids: [tokens].
        repeats: how often the looped piece stands there, whole.
        least: tokens of the shortest stretch that counts, so that three dots are no loop.

    Raises:
        ValueError: fewer than 2 repeats.
    """
    if repeats < 2:
        raise ValueError(f"repeats must be at least 2, not {repeats!r}: what stands there once is no loop.")
    tokens = _row(ids)
    for period in range(1, len(tokens) // repeats + 1):
        stretch = max(repeats * period, least)
        if stretch <= len(tokens) and torch.equal(tokens[-stretch + period :], tokens[-stretch:-period]):
            return True
    return False


def loop_rate(texts: Sequence[Ids], *, repeats: int = 3, least: int = 12) -> float:
    """Share of texts that end in a loop; see `ends_in_loop`. NaN for no texts."""
    if not len(texts):
        return float("nan")
    return sum(ends_in_loop(ids, repeats=repeats, least=least) for ids in texts) / len(texts)


def self_bleu(texts: Sequence[TextOrIds], n: int = 4) -> float:
    """Mean BLEU of each text against all the others, in [0, 1]; 1 for equal texts, NaN for fewer than two.

    Args:
        texts: strings, which sacrebleu cuts into words (its "13a"), or token ids.
        n: longest n-gram. The paper names none (inferred: 4, smoothed exponentially, effective order).

    Raises:
        ValueError: sacrebleu is not installed, or n below 1.
    """
    bleu, said = _bleu(texts, n)
    if len(said) < 2:
        return float("nan")
    scores = [
        bleu.sentence_score(text, [*said[:index], *said[index + 1 :]]).score / 100 for index, text in enumerate(said)
    ]
    return sum(scores) / len(scores)


def dataset_bleu(texts: Sequence[TextOrIds], references: Sequence[TextOrIds], n: int = 4) -> list[tuple[float, float]]:
    """Of each text the largest and the mean BLEU against the texts that a model was tuned on, each in [0, 1].

    A text shorter than a reference pays BLEU's brevity penalty: cut the references to the texts' length to avoid it.

    Args:
        texts, references: all strings or all token ids.
        n: longest n-gram; see `self_bleu`.

    Raises:
        ValueError: no references, sacrebleu is not installed, or n below 1.
    """
    if not len(references):
        raise ValueError("dataset_bleu needs at least one reference.")
    bleu, said = _bleu([*texts, *references], n)
    own, others = said[: len(texts)], said[len(texts) :]
    found = []
    for text in own:
        scores = [bleu.sentence_score(text, [other]).score / 100 for other in others]
        found.append((max(scores), sum(scores) / len(scores)))
    return found


def _bleu(texts: Sequence[TextOrIds], n: int) -> tuple[Any, list[str]]:
    """sacrebleu's scorer, and the texts as it reads them."""
    if n < 1:
        raise ValueError(f"n must be at least 1, not {n!r}.")
    try:
        from sacrebleu.metrics import BLEU
    except ImportError:
        raise ValueError("BLEU needs the package sacrebleu: pip install 'szilard[eval]'") from None
    strings = [isinstance(text, str) for text in texts]
    if any(strings) and not all(strings):
        raise TypeError("BLEU compares strings with strings or token ids with token ids, not one with the other.")
    said = [text if isinstance(text, str) else " ".join(map(str, text)) for text in texts]
    cut = "13a" if all(strings) else "none"
    return BLEU(max_ngram_order=n, smooth_method="exp", effective_order=True, tokenize=cut, force=True), said


def _row(ids: Ids) -> Tensor:
    tokens = torch.as_tensor(ids, dtype=torch.int64) if not isinstance(ids, Tensor) else ids
    if tokens.dim() != 1:
        raise ValueError(f"a text is one row of token ids, [tokens], not a tensor of shape {list(tokens.shape)}.")
    return tokens
