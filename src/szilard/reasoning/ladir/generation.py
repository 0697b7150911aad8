"""Thinking and answering on the decoding state: what `LaDiRReasoner.generate` and the decoding method share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from szilard.decoding.state import DecodingState
from szilard.engines.transformers_generate import open_state
from szilard.information import entropy
from szilard.options import check_number
from szilard.reasoning.ladir.contexts import StateContext
from szilard.reasoning.ladir.parts import SOA, LadirParts
from szilard.reasoning.ladir.thinking import Thinking, Thoughts, think
from szilard.reasoning.ladir.vae import SentenceVAE

_ELSEWHERE = {
    "num_return_sequences": "give num_trajectories",
    "streamer": "stream with szilard.load(folder).stream(prompt, method=szilard.LaDiR())",
}


@dataclass(frozen=True)
class LadirOutput:
    """What was thought and answered about a batch of questions, a row per trajectory, those of a question together.

    Attributes:
        answers: texts.
        answer_ids: token ids of the answers, the end token not among them.
        blocks: per trajectory its thoughts, [b, L_b, d_z].
        thought_texts: per trajectory the sentence of every block; None: they were not decoded.
        steps: per trajectory the denoising steps of every block.
        num_denoising_forwards: of the whole batch: T per block, 2 T with guidance.
        num_forward_passes: of the whole batch: the question's, the denoising's, one (two) per finished block, and the
            answer's.
    """

    answers: list[str]
    answer_ids: list[list[int]]
    blocks: list[torch.Tensor]
    thought_texts: list[list[str]] | None
    steps: list[list[int]]
    num_denoising_forwards: int
    num_forward_passes: int


def think_on(
    state: DecodingState, parts: LadirParts, how: Thinking, noise: Callable[[], torch.Tensor], groups: torch.Tensor
) -> tuple[Thoughts, torch.Tensor]:
    """Thoughts behind a state's prompt, which is read first, and the logits of the answer's first token [batch, vocab].

    No more blocks are begun than the model's context has room for.

    Raises:
        ValueError: the context has no room for prompt and answer.
    """
    longest, most = int(state.prompt_mask.sum(1).max()), state.max_new_tokens or 1
    if state.context_window is not None and longest + most > state.context_window:
        raise ValueError(
            f"a question of {longest} tokens and max_new_tokens={most} exceed the context window of "
            f"{state.context_window}: shorten the question, or lower max_new_tokens."
        )
    state.prefill()
    room = how.max_blocks
    if state.context_window is not None:
        left = state.context_window - int(state.cached.max()) - (state.max_new_tokens or 1) - 2
        room = max(0, min(room, left // (parts.latent_tokens + 2)))
    context = StateContext(state)
    blind = context.without_question(parts.null) if how.cfg_scale != 1 and room else None
    allowed = Thinking(how.num_steps, room, how.initial_noise, how.cfg_scale, how.diversity, how.tolerance)
    thoughts = think(parts, context, allowed, noise, groups, blind=blind)
    state.cost.count("denoising_forwards", thoughts.forwards)
    state.cost.count("blocks", int(thoughts.counts.sum()))
    start = parts.delimiters[SOA].to(state.embedding_matrix).expand(state.batch_size, 1, -1)
    return thoughts, state.feed(embeddings=start)[:, -1]


def answer_on(state: DecodingState, logits: torch.Tensor, **first: Any) -> None:
    """Write until the end in the ordinary way, from the first token's logits; `first`: columns of its record."""
    while True:
        tokens = state.choose(logits)
        if state.trace is not None:
            state.record(tokens, entropy(logits), **first)
            first = {}
        state.commit(tokens)
        if state.done:
            return
        logits = state.feed(tokens)[:, -1]


def generate(
    model: Any,
    parts: LadirParts,
    tokenizer: Any,
    question_ids: torch.Tensor,
    attention_mask: torch.Tensor | None,
    how: Thinking,
    *,
    num_trajectories: int = 1,
    generator: torch.Generator | None = None,
    noise: torch.Tensor | None = None,
    vae: SentenceVAE | None = None,
    **answer_generate_kwargs: Any,
) -> LadirOutput:
    """Think about questions, several times each, and answer in words.

    Args:
        model, parts, tokenizer: of the reasoner.
        question_ids: int64 [width], or [questions, width] padded on the left.
        attention_mask: 0 for padding, [questions, width]; None: there is none.
        how: the denoising.
        num_trajectories: per question; diversity guidance acts between them.
        generator: of the noise; None: PyTorch's default.
        noise: N(0, I) for every block, [max_blocks, questions x trajectories, L_b, d_z], in the place of draws.
        vae: decodes the thoughts; None: they are not.
        answer_generate_kwargs: of transformers' `generate`: max_new_tokens (64), do_sample, temperature (the paper's
            0.7 where it draws), ....

    Raises:
        TypeError: question_ids are no tensor of ids, or generator is none.
        ValueError: no trajectory, noise of another shape, an empty question, padding on the right, or an option of
            `generate` that has no meaning here.
    """
    check_number("num_trajectories", num_trajectories, low=1, integer=True)
    ids, mask = _checked_questions(question_ids, attention_mask)
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(f"generator must be a torch.Generator or None, not {generator!r}.")
    for name, instead in _ELSEWHERE.items():
        if answer_generate_kwargs.get(name) not in (None, 1):
            raise ValueError(f"{name} is not for thoughts: {instead}.")
    rows = len(ids) * num_trajectories
    shape = (rows, parts.latent_tokens, parts.latent_dim)
    if noise is not None and noise.shape != (how.max_blocks, *shape):
        raise ValueError(f"noise must be of shape {(how.max_blocks, *shape)}, not {tuple(noise.shape)}.")
    given = None if noise is None else iter(noise.to(parts.null))
    groups = torch.arange(len(ids), device=ids.device).repeat_interleave(num_trajectories)
    found: list[Any] = []

    def draw() -> torch.Tensor:
        if given is not None:
            return next(given)
        where = parts.null.device if generator is None else generator.device
        return torch.randn(shape, generator=generator, device=where, dtype=parts.null.dtype).to(parts.null.device)

    def inside(
        model: Any,
        input_ids: torch.Tensor,
        logits_processor: Any,
        stopping_criteria: Any,
        generation_config: Any,
        **model_kwargs: Any,
    ) -> torch.Tensor:
        state = open_state(model, input_ids, logits_processor, stopping_criteria, generation_config, model_kwargs)
        thoughts, logits = think_on(state, parts, how, draw, groups)
        answer_on(state, logits)
        state.finish()
        found.extend([state, thoughts])
        return state.sequences

    options = {"do_sample": False, "max_new_tokens": 64, **answer_generate_kwargs}
    if options["do_sample"]:
        options.setdefault("temperature", 0.7)
    end = tokenizer.eos_token_id
    options.setdefault("eos_token_id", end)
    options.setdefault("pad_token_id", end)
    model.generate(
        input_ids=ids.repeat_interleave(num_trajectories, 0),
        attention_mask=mask.repeat_interleave(num_trajectories, 0),
        custom_generate=inside,
        **options,
    )
    state, thoughts = found
    ends = options["eos_token_id"]
    ends = set(ends) if isinstance(ends, list | tuple) else {ends}
    written = [tokens[:-1] if tokens and tokens[-1] in ends else tokens for tokens in state.generated_tokens()]
    counts = thoughts.counts.tolist()
    blocks = [row[:count] for row, count in zip(thoughts.blocks, counts, strict=True)]
    texts = None if vae is None else thought_texts(vae, blocks)
    return LadirOutput(
        answers=[text.strip() for text in tokenizer.batch_decode(written, skip_special_tokens=True)],
        answer_ids=written,
        blocks=blocks,
        thought_texts=texts,
        steps=[row[:count] for row, count in zip(thoughts.steps.tolist(), counts, strict=True)],
        num_denoising_forwards=thoughts.forwards,
        num_forward_passes=sum(state.cost.forward_passes.values()),
    )


def _checked_questions(ids: Any, mask: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Questions and their mask, [questions, width] each."""
    if not isinstance(ids, torch.Tensor) or ids.dtype not in (torch.int64, torch.int32):
        what = f"a tensor of {ids.dtype}" if isinstance(ids, torch.Tensor) else type(ids).__name__
        raise TypeError(f"question_ids must be a tensor of token ids (int64), not {what}.")
    ids = ids[None] if ids.dim() == 1 else ids
    if ids.dim() != 2 or not ids.numel():
        raise ValueError(f"question_ids must be [width] or [questions, width] and not empty, not {list(ids.shape)}.")
    mask = torch.ones_like(ids) if mask is None else mask
    mask = mask[None] if mask.dim() == 1 else mask
    if mask.shape != ids.shape:
        raise ValueError(f"attention_mask is {list(mask.shape)}, but question_ids are {list(ids.shape)}.")
    if not bool(mask[:, -1].all()) or bool((mask[:, 1:] < mask[:, :-1]).any()):
        raise ValueError("questions must be padded on the left: the last column of attention_mask must hold no 0.")
    return ids, mask


def thought_texts(vae: SentenceVAE, blocks: list[torch.Tensor]) -> list[list[str]]:
    """The sentence of every block, per trajectory; all blocks are decoded at once."""
    texts = iter(vae.decode(torch.cat(blocks)) if blocks else [])
    return [[next(texts) for _ in range(len(own))] for own in blocks]
