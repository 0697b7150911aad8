"""Latent reasoning for who works with plain transformers: a model, a tokenizer, problems as text."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from szilard.options import check_number
from szilard.reasoning.examples import delimiter_ids, left_padded, prompt_ids
from szilard.reasoning.latent_sft.method import LatentSFT, Watch
from szilard.reasoning.supervised import evaluating

_ANSWER_TOKENS = 128  # where nobody says how long an answer may be


@dataclass(frozen=True)
class LatentChain:
    """The latent tokens of one problem.

    Attributes:
        probabilities: of the superpositions that were fed, [steps, k].
        tokens: their ids [steps, k]; None: the whole vocabulary in order.
        likeliest: ids of the whole distributions' likeliest tokens, [steps, K], the likeliest first.
        shares: their probabilities, of the whole vocabulary, [steps, K].
    """

    probabilities: torch.Tensor
    tokens: torch.Tensor | None
    likeliest: torch.Tensor
    shares: torch.Tensor


@dataclass(frozen=True)
class LatentAnswer:
    """What a model answered.

    Attributes:
        text: the answer, special tokens left out.
        tokens: its ids, the end of sequence included.
        chain: ids of the latent steps' likeliest tokens.
        latent_steps: #L, without the chain's end and the answer.
        passes: forward passes until this row's end, the prompt's among them.
        latents: the superpositions, where they were asked for.
    """

    text: str
    tokens: list[int]
    chain: list[int]
    latent_steps: int
    passes: int
    latents: LatentChain | None = None


@dataclass(frozen=True)
class _Watched(LatentSFT):
    """The method, told to somebody."""

    watch: Watch | None = None

    def decode(self, state: Any, watch: Watch | None = None) -> None:
        super().decode(state, watch or self.watch)


@torch.no_grad()
def latent_generate(
    model: Any,
    tokenizer: Any,
    prompt: str | Sequence[str],
    *,
    method: LatentSFT | None = None,
    max_latent_steps: int | None = None,
    max_new_tokens: int | None = None,
    do_sample: bool | None = None,
    instruction: str = "",
    return_latents: bool | int = False,
    batch_size: int = 64,
    generation_config: Any = None,
    past_key_values: Any = None,
    **options: Any,
) -> Any:
    """Answer problems with latent chains.

    Args:
        model: a causal language model of transformers, tuned by `szilard train latent-sft`.
        tokenizer: its own.
        prompt: a problem or several, put into the chat template where there is one.
        method: its settings; None: `LatentSFT()`, as trained.
        max_latent_steps: bound of the chain, instead of the method's.
        max_new_tokens: bound of the answer, where the method has none; None: that of `generation_config`, or 128.
        do_sample: draw the answer (temperature 0.6, top-p 0.95 unless the method says otherwise); None: as
            `generation_config` says, or not.
        instruction: put in front of every problem.
        return_latents: keep the superpositions, and of each whole distribution the likeliest tokens: so many, or 100.
        batch_size: problems at once.
        generation_config: a `GenerationConfig` for the answer; what is given beside it goes before it.
        past_key_values: a `Cache` to use; problems must then fit into one batch.
        options: further ones of `model.generate`, such as `eos_token_id`, one or several.

    Returns:
        A `LatentAnswer`, or a list of them for a list of problems.

    Raises:
        ValueError: no problem, one that is empty, or a delimiter that the tokenizer lacks.
    """
    problems = [prompt] if isinstance(prompt, str) or not isinstance(prompt, Sequence) else list(prompt)
    if not problems or not all(isinstance(one, str) and one.strip() for one in problems):
        raise ValueError(f"prompt must be a problem, or a list of them, as text; not {prompt!r}.")
    check_number("max_new_tokens", max_new_tokens, low=1, integer=True, optional=True)
    check_number("batch_size", batch_size, low=1, integer=True)
    if past_key_values is not None and len(problems) > batch_size:
        raise ValueError(f"one cache serves one batch, and {len(problems)} problems are more than {batch_size}.")
    chosen = (LatentSFT() if method is None else method).as_trained(model)
    if max_latent_steps is not None:
        chosen = dataclasses.replace(chosen, max_latent_steps=max_latent_steps)
    if chosen.max_answer_tokens is None:
        bound = max_new_tokens or getattr(generation_config, "max_new_tokens", None) or _ANSWER_TOKENS
        chosen = dataclasses.replace(chosen, max_answer_tokens=bound)
    opened = _ids(tokenizer, chosen.think_open, "think_open")
    closed = _ids(tokenizer, chosen.think_close, "think_close")
    chosen = dataclasses.replace(chosen, think_open=opened, think_close=closed)
    likeliest = (100 if return_latents is True else int(return_latents)) if return_latents else 0
    rows = [[*prompt_ids(tokenizer, problem, instruction), *opened] for problem in problems]
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    ends = options.pop("eos_token_id", None)
    if ends is None:
        ends = getattr(generation_config, "eos_token_id", None)
    if ends is None:
        ends = tokenizer.eos_token_id
    settings = {"pad_token_id": pad, "eos_token_id": ends, **options}
    if do_sample is not None or generation_config is None:
        settings["do_sample"] = bool(do_sample)
    if chosen.max_latent_steps is None:
        raise ValueError("max_latent_steps must be a number here, so that every chain ends.")
    assert chosen.max_answer_tokens is not None
    settings["max_new_tokens"] = chosen.max_latent_steps + len(closed) + chosen.max_answer_tokens
    if generation_config is not None:  # one object: given beside another, single settings are deprecated
        merged = copy.deepcopy(generation_config)
        settings = merged.update(**settings) | {"generation_config": merged}
    if past_key_values is not None:
        settings["past_key_values"] = past_key_values
    found: list[LatentAnswer] = []
    last = {ends} if isinstance(ends, int) else set(ends or ())
    with evaluating(model):
        for start in range(0, len(rows), batch_size):
            part = rows[start : start + batch_size]
            found += _batch(model, tokenizer, part, chosen, likeliest, pad, last, settings)
    return found[0] if isinstance(prompt, str) else found


def _batch(
    model: Any,
    tokenizer: Any,
    rows: list[list[int]],
    method: LatentSFT,
    likeliest: int,
    pad: int,
    last: set[int],
    settings: dict[str, Any],
) -> list[LatentAnswer]:
    ids, mask = left_padded(rows, pad, model.device)
    seen: list[tuple[torch.Tensor, ...]] = []

    def watch(
        scores: torch.Tensor, probabilities: torch.Tensor, tokens: torch.Tensor | None, latent: torch.Tensor
    ) -> None:
        if not likeliest:
            seen.append((latent,))
            return
        shares, top = scores.softmax(-1).topk(min(likeliest, scores.shape[-1]), dim=-1)
        seen.append((latent, probabilities, top, shares, *(() if tokens is None else (tokens,))))

    watched = _Watched(**method.options(), watch=watch)
    made = model.generate(input_ids=ids, attention_mask=mask, custom_generate=watched, **settings)
    made = made if torch.is_tensor(made) else made.sequences
    taken = torch.stack([step[0] for step in seen]) if seen else torch.zeros(0, len(rows), dtype=torch.bool)
    closed = list(method.think_close or ())
    found = []
    for row, written in enumerate(made[:, ids.shape[1] :].tolist()):
        steps = int(taken[:, row].sum())
        after = written[steps:]
        after = after[len(closed) :] if after[: len(closed)] == closed else after
        end = next((at + 1 for at, token in enumerate(after) if token in last), len(after))
        answer = after[: min(end, method.max_answer_tokens or end)]
        passes = len(written) - len(after) + len(answer)
        latents = None
        if likeliest:
            own = [[part[row] for part in step[1:]] for step in seen if bool(step[0][row])]
            columns = [torch.stack(column) for column in zip(*own, strict=True)]
            latents = _chain(columns) if columns else None
        text = tokenizer.decode(answer, skip_special_tokens=True).strip()
        found.append(LatentAnswer(text, answer, written[:steps], steps, passes, latents))
    return found


def _chain(columns: list[torch.Tensor]) -> LatentChain:
    probabilities, top, shares, *tokens = columns
    return LatentChain(probabilities, tokens[0] if tokens else None, top, shares)


def _ids(tokenizer: Any, mark: Any, name: str) -> tuple[int, ...]:
    if isinstance(mark, str) and mark:
        return tuple(delimiter_ids(tokenizer, mark, name))
    return tuple(mark or ())
