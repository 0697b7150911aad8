"""The loss of masked diffusion language models, and the estimate of likelihood that goes with it.

LLaDA: Nie et al. 2025, arXiv 2502.09992; its code: github.com/ML-GSAI/LLaDA.

    forward process   t ~ U(0, 1) per sequence;  p = (1 - eps) t + eps;  every token becomes [MASK] with probability p
    pre-training      L = 1/(B N) sum_b 1/p_b sum_{i masked} -log p_theta(x_i | noisy x)
    answers (SFT)     L = 1/B sum_b 1/(p_b L_b) sum_{i masked} -log p_theta(x_i | noisy x),   L_b: b's answer length
    likelihood        log p(answer) ~ -E_{l ~ U{1..L}} L/l sum_{i in l masked ones} -log p_theta(x_i | noisy x)

The first, times N, is an upper bound of -log p(x). In the second no token of a prompt is ever masked, and an answer
includes the end tokens that fill it up to the batch's longest one: they are trained, which teaches length.

A model is asked through `Predict`: noisy tokens [rows, N] and the wanted places, bool [rows, N], to the logits
[places, vocab] of the tokens AT these places, row by row. `bidirectional.Bidirectional` makes one of a stock decoder.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from szilard.options import check_number

Predict = Callable[[Tensor, Tensor], Tensor]
EPS = 1e-3  # least share of masked tokens: LLaDA's


@dataclass(frozen=True)
class MaskedLoss:
    """A batch's loss.

    Attributes:
        loss: scalar with gradients, nats per token.
        nats: plain mean cross-entropy of the masked tokens, without weights; scalar.
        right: share of the masked tokens that are the likeliest ones; scalar.
        masked: which tokens were masked, bool [rows, N].
    """

    loss: Tensor
    nats: Tensor
    right: Tensor
    masked: Tensor


def mask_probabilities(
    rows: int, *, eps: float = EPS, stratified: bool = True, generator: torch.Generator | None = None
) -> Tensor:
    """p of each sequence, float32 [rows] in [eps, 1].

    Args:
        rows: sequences.
        eps: the least p.
        stratified: t_b = (u + b / rows) mod 1 with one u ~ U(0, 1) for all (inferred, standard): each t is uniform as
            before, and together they cover (0, 1) evenly, which lowers the loss's variance. False: independent t.
        generator: of the draws, on the CPU.

    Raises:
        ValueError: no rows, or eps outside [0, 1].
    """
    check_number("rows", rows, low=1, integer=True)
    check_number("eps", eps, low=0, high=1)
    if stratified:
        t = (torch.rand(1, generator=generator) + torch.arange(rows) / rows) % 1
    else:
        t = torch.rand(rows, generator=generator)
    return (1 - eps) * t + eps


def mask_tokens(
    tokens: Tensor,
    probabilities: Tensor,
    mask_token_id: int,
    maskable: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """The forward process: noisy tokens, and which are masked, both [rows, N].

    Args:
        tokens: int64 [rows, N].
        probabilities: p of each row, [rows].
        mask_token_id: what a masked token becomes.
        maskable: bool [rows, N]; False: never masked. None: all may be.
        generator: of the draws, on the CPU.
    """
    drawn = torch.rand(tokens.shape, generator=generator)
    masked = (drawn < probabilities.cpu()[:, None]).to(tokens.device)
    if maskable is not None:
        masked = masked & maskable
    return tokens.masked_fill(masked, mask_token_id), masked


def masked_diffusion_loss(
    predict: Predict,
    tokens: Tensor,
    mask_token_id: int,
    *,
    answer: Tensor | None = None,
    real: Tensor | None = None,
    eps: float = EPS,
    stratified: bool = True,
    generator: torch.Generator | None = None,
) -> MaskedLoss:
    """The loss of one batch, see the head of this file.

    Args:
        predict: the model.
        tokens: int64 [rows, N].
        mask_token_id: the mask token.
        answer: bool [rows, N], tokens of the answers: each row's loss is divided by the length of its own. None: all
            tokens are learned, and the loss is divided by their number in the batch.
        real: bool [rows, N]; False: padding, which is neither masked nor counted (where `answer` is given, it says so).
        eps, stratified, generator: see `mask_probabilities`.

    Raises:
        ValueError: shapes that do not fit, or a row without an answer.
    """
    if tokens.dim() != 2:
        raise ValueError(f"tokens must be [rows, N], not {list(tokens.shape)}.")
    for name, given in (("answer", answer), ("real", real)):
        if given is not None and (given.shape != tokens.shape or given.dtype != torch.bool):
            raise ValueError(
                f"{name} must be bool {list(tokens.shape)} as the tokens are, not {given.dtype} {list(given.shape)}."
            )
    learned = torch.ones_like(tokens, dtype=torch.bool) if real is None else real
    if answer is not None:
        learned = learned & answer
    lengths = learned.sum(1)
    if bool((lengths == 0).any()):
        raise ValueError(f"row {int((lengths == 0).int().argmax())} has no token to learn: leave it out.")
    p = mask_probabilities(len(tokens), eps=eps, stratified=stratified, generator=generator).to(tokens.device)
    noisy, masked = mask_tokens(tokens, p, mask_token_id, learned, generator)
    logits = predict(noisy, masked).float()  # [places, vocab]
    target = tokens[masked]
    each = functional.cross_entropy(logits, target, reduction="none")
    whose = masked.nonzero()[:, 0]
    share = 1 / (lengths * len(tokens)) if answer is not None else (1 / lengths.sum()).expand(len(tokens))
    loss = (each * (share / p)[whose]).sum()
    count = max(len(target), 1)
    right = (logits.detach().argmax(-1) == target).float().sum() / count
    return MaskedLoss(loss, each.detach().sum() / count, right, masked)


def sometimes_shorter(tokens: Tensor, *, share: float = 0.01, generator: torch.Generator | None = None) -> Tensor:
    """Pre-training's cut: of a share of the batches only a beginning stays, of a length ~ U{1..N}.

    Args:
        tokens: int64 [rows, N].
        share: of the batches.
        generator: of the draws, on the CPU.
    """
    check_number("share", share, low=0, high=1)
    if float(torch.rand((), generator=generator)) >= share:
        return tokens
    return tokens[:, : int(torch.randint(1, tokens.shape[1] + 1, (), generator=generator))]


def canvases(
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    *,
    pad_token_id: int,
    eos_token_id: int,
    length: int | None = None,
) -> dict[str, Tensor]:
    """Prompts padded on the left, answers filled up on the right with end tokens, which are part of them.

    Args:
        prompts: token ids.
        answers: token ids without an end token.
        pad_token_id: of prompts, any token.
        eos_token_id: of answers.
        length: of all answers; None: one more than the longest, so that every answer has an end.

    Returns:
        "tokens" int64, "answer" and "real" bool, each [rows, N].

    Raises:
        ValueError: not as many prompts as answers, none, or an answer longer than `length`.
    """
    if len(prompts) != len(answers) or not prompts:
        raise ValueError(f"each prompt needs its answer: there are {len(prompts)} prompts and {len(answers)} answers.")
    longest = max(map(len, answers))
    size = longest + 1 if length is None else length
    if longest > size:
        raise ValueError(f"an answer has {longest} tokens, more than length={length}.")
    before = max(map(len, prompts))
    rows = [
        [pad_token_id] * (before - len(prompt)) + [*prompt, *answer] + [eos_token_id] * (size - len(answer))
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    tokens = torch.tensor(rows, dtype=torch.int64)
    place = torch.arange(before + size).expand_as(tokens)
    starts = torch.tensor([before - len(prompt) for prompt in prompts])[:, None]
    return {"tokens": tokens, "answer": place >= before, "real": place >= starts}


@torch.no_grad()
def log_likelihood(
    predict: Predict,
    tokens: Tensor,
    answer: Tensor,
    mask_token_id: int,
    *,
    draws: int = 128,
    batch_size: int = 32,
    generator: torch.Generator | None = None,
) -> float:
    """An estimate of the lower bound of log p(answer | prompt), in nats.

    # LLaDA's code stratifies l within each batch; here: over all draws, so that `batch_size` changes no result.

    Args:
        predict: the model.
        tokens: int64 [N], the prompt and its answer.
        answer: bool [N], which tokens are the answer.
        mask_token_id: the mask token.
        draws: how often something is masked; an answer of one token needs and gets one draw.
        batch_size: draws per forward.
        generator: of the draws, on the CPU.

    Raises:
        ValueError: no answer, or draws below 1.
    """
    check_number("draws", draws, low=1, integer=True)
    check_number("batch_size", batch_size, low=1, integer=True)
    places = answer.nonzero()[:, 0]
    size = len(places)
    if size == 0:
        raise ValueError("answer marks no token: there is nothing whose likelihood could be measured.")
    draws = 1 if size == 1 else draws
    first = int(torch.randint(size, (), generator=generator))
    counts = (first + (torch.arange(draws) * size) // draws) % size + 1  # of masked tokens: every l as often
    ranks = torch.rand(draws, size, generator=generator).argsort(1).argsort(1)
    chosen = ranks < counts[:, None]  # [draws, size]: exactly l of them
    masked = torch.zeros(draws, len(tokens), dtype=torch.bool)
    masked[:, places.cpu()] = chosen
    total = 0.0
    for part, l in zip(masked.split(batch_size), counts.split(batch_size), strict=True):
        part = part.to(tokens.device)
        rows = tokens.expand(len(part), -1)
        logits = predict(rows.masked_fill(part, mask_token_id), part).float()
        each = functional.cross_entropy(logits, rows[part], reduction="none").double()
        total += float((each * (size / l.double()).to(each.device)[part.nonzero()[:, 0]]).sum())
    return -total / draws
