"""Turning an autoregressive language model into a masked diffusion model by training it on.

Dream: Ye et al. 2025, arXiv 2508.15487: the causal mask goes, and the hidden state at i - 1 still predicts token i, so
that what the model knows stays where it is. The loss is that of `masked_loss.py`: of answers where the corpus has
prompts, else of all tokens. Dream's reweighting by context (CART) is not part of it.

What is written is a folder of transformers with "masked_diffusion" in its config.json: token ids and the shift.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from szilard.diffusion.bidirectional import Bidirectional
from szilard.diffusion.masked_loss import masked_diffusion_loss, sometimes_shorter
from szilard.diffusion.training_config import MaskedDiffusionTraining
from szilard.engines.engine import Engine
from szilard.training import low_rank
from szilard.training.course import Course, split
from szilard.training.hidden_states import Stretches, Windows
from szilard.training.loop import Batch, planned_steps, uses_fsdp
from szilard.training.model_folder import write_model
from szilard.training.target import Target
from szilard.whole_folder import write_whole

_DRAWS = 8  # masks per held-out stretch


def mask_token(tokenizer: Any, given: int | None, vocab_size: int) -> int:
    """The id that stands for an open place.

    Args:
        tokenizer: of the model.
        given: by the user.
        vocab_size: rows of the model's embeddings.

    Returns:
        `given`; else the tokenizer's mask token; else its last special token that begins, ends or pads nothing and is
        not in the chat template.

    Raises:
        ValueError: outside the vocabulary, or there is none.
    """
    if given is None:
        given = getattr(tokenizer, "mask_token_id", None)
    if given is None:
        named = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id)
        template = str(getattr(tokenizer, "chat_template", None) or "")
        free = [
            index
            for index, token in getattr(tokenizer, "added_tokens_decoder", {}).items()
            if token.special and index not in named and token.content not in template and index < vocab_size
        ]
        if not free:
            raise ValueError(
                "the tokenizer has neither a mask token nor a special token to spare: give --mask-token-id, an id that "
                "your texts never use."
            )
        given = max(free)
    if given >= vocab_size:
        raise ValueError(f"mask_token_id={given} is outside the model's vocabulary of {vocab_size}.")
    return int(given)


class UnmaskingObjective(nn.Module):
    """The loss of a batch: {"loss", "nats" (plain, of the masked tokens), "right" (share of them)}.

    Args:
        target: the model, whose weights are tuned.
        config: the settings.
        mask_token_id: the mask token.
        conditional: prompts are never masked, and each answer counts by its own length.
        steps: forwards of the training.
    """

    def __init__(
        self, target: Target, config: MaskedDiffusionTraining, mask_token_id: int, conditional: bool, steps: int
    ) -> None:
        super().__init__()
        self.target, self.settings = target, config
        self.mask_token_id, self.conditional = mask_token_id, conditional
        self.grows_until = round(config.anneal * steps)
        self.done: torch.Tensor  # a buffer, so that a checkpoint holds it
        self.register_buffer("done", torch.tensor(0))
        self.changes: dict[str, nn.Parameter] = {}
        self.before: dict[str, torch.Tensor] = {}
        if config.lora:
            self.changes = low_rank.inject(target.model, config.rank)
            self.tuned = nn.ParameterList(self.changes.values())
            return
        if target.model.dtype in (torch.float16, torch.bfloat16):
            raise ValueError(f"tuning every weight in {target.model.dtype} loses small steps: load it with float32.")
        self.tuned = nn.ParameterList()
        for name, parameter in target.model.named_parameters():
            self.before[name] = parameter.detach().clone()
            self.tuned.append(parameter.requires_grad_(True))

    @property
    def share(self) -> float:
        """Of the later tokens that a token sees."""
        return min(1.0, int(self.done) / self.grows_until) if self.training and self.grows_until else 1.0

    def forward(
        self, ids: torch.Tensor, answer: torch.Tensor, real: torch.Tensor, generator: torch.Generator | None = None
    ) -> dict[str, torch.Tensor]:
        """One batch, int64, bool and bool [batch, length]."""
        if self.training and not self.conditional:
            ids = sometimes_shorter(ids, generator=generator)
            real = real[:, : ids.shape[1]]
        predict = Bidirectional(self.target.model, shift=self.settings.shift_logits, real=real, share=self.share)
        found = masked_diffusion_loss(
            predict,
            ids,
            self.mask_token_id,
            answer=answer & real if self.conditional else None,
            real=real,
            eps=self.settings.eps,
            generator=generator,
        )
        if self.training:
            self.done += 1
        return {"loss": found.loss, "nats": found.nats, "right": found.right}

    @contextlib.contextmanager
    def tuned_model(self) -> Iterator[Any]:
        """The model with what was learned in its weights; behind the block it has its own again."""
        model = self.target.model
        try:
            if self.settings.lora:
                shapes, transposed = low_rank.described(model, self.changes)
                kept = low_rank.LowRank(shapes, 2.0, transposed)
                kept.take(self.changes)
                low_rank.remove(model)
                with kept.applied(model):
                    yield model
            else:
                yield model
        finally:
            self.restore()

    def restore(self) -> None:
        """Give the model its own layers and weights back."""
        for name, weight in self.before.items():
            self.target.model.get_parameter(name).data = weight
        low_rank.remove(self.target.model)


class Texts(Stretches):
    """Stretches of a corpus that know whether they are the end of an answer.

    Args:
        windows: the stretches.
        eos_token_id: ends answers; None: nothing does.
        conditional: an answer that ends is filled up with end tokens, which are learned.
    """

    def __init__(self, windows: Windows, eos_token_id: int | None, conditional: bool) -> None:
        self.windows, self.texts = windows, windows.texts
        self.eos_token_id = eos_token_id
        offsets = set(windows.cache.offsets.tolist())
        self.ends = [conditional and eos_token_id is not None and last in offsets for _, last in windows.spans]

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> Batch:
        """{"ids" int64 [n], "answer" bool [n], "ends" bool []}."""
        stretch = self.windows[index]
        return stretch | {"ends": torch.tensor(self.ends[index] and bool(stretch["answer"][-1]))}

    def collate(self, stretches: Sequence[Batch]) -> Batch:
        """Tensors "ids", "answer" and "real", [batch, length]; answers that end are filled with end tokens."""
        longest = max(len(one["ids"]) + int(one["ends"]) for one in stretches)
        ids = torch.zeros(len(stretches), longest, dtype=torch.int64)
        answer, real = torch.zeros_like(ids, dtype=torch.bool), torch.zeros_like(ids, dtype=torch.bool)
        for row, one in enumerate(stretches):
            size = len(one["ids"])
            ids[row, :size], answer[row, :size], real[row, :size] = one["ids"], one["answer"], True
            if bool(one["ends"]):
                ids[row, size:], answer[row, size:], real[row, size:] = int(self.eos_token_id or 0), True, True
        return {"ids": ids, "answer": answer, "real": real}


def train_masked_diffusion(
    engine: Engine,
    data: Path,
    config: MaskedDiffusionTraining,
    folder: Path,
    *,
    cache: Path | None = None,
    limit: int | None = None,
    restart: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, float]:
    """Train a model on and write it to a folder that transformers loads; a stopped run goes on.

    Args:
        engine: the model, on transformers; it has its own weights again afterwards.
        data: texts, as `read_corpus` takes them; with prompts, only answers are learned.
        config: the settings.
        folder: gets the model, its tokenizer, `training.yaml`, `metrics.jsonl`, `held-out.yaml` and checkpoints.
        cache, progress: not used; no hidden states are computed beforehand.
        limit: only the first so many texts.
        restart: forget an earlier run in the folder.

    Returns:
        On held-out text: "bound", nats per token (an upper bound of the negative log-likelihood); "nats" and "right" of
        the masked tokens.

    Raises:
        ValueError: unusable data, no mask token, or other settings than the folder's unfinished run's.
    """
    if uses_fsdp():
        raise ValueError("this tunes weights inside the model, which FSDP would take apart: train it with DDP.")
    with Course(engine, data, config, folder, limit=limit, restart=restart) as course:
        if any(example.images for example in course.examples):
            raise ValueError("masked-diffusion learns from texts: leave out the records with pictures.")
        mask = mask_token(engine.tokenizer, config.mask_token_id, course.target.vocab_size)
        if any(mask in example.ids for example in course.examples):
            raise ValueError(f"the texts hold token {mask}, which is to be the mask: give another --mask-token-id.")
        conditional = not all(all(example.answer) for example in course.examples)
        eos = engine.tokenizer.eos_token_id
        texts = Texts(Windows(course.tokens(), config.window), eos, conditional)
        learned, _ = split(texts.texts, config.held_out, config.seed)
        steps = planned_steps(len(learned), config) * config.gradient_accumulation
        objective = UnmaskingObjective(course.target, config, mask, conditional, steps)
        try:
            held = course.train(objective, texts, texts.collate)
            if not course.leads:
                return {}
            metrics = measure(objective, held, texts.collate)
            ids = {"mask_token_id": mask, "eos_token_id": eos, "eot_token_id": None}
            with objective.tuned_model() as model:
                habits = ids | {"shift_logits": config.shift_logits, "forbid_mask": True}
                write_with_habits(model, engine.tokenizer, habits, folder)
        finally:
            objective.restore()
        write_whole(folder / "held-out.yaml", yaml.safe_dump(metrics))
        return metrics


@torch.no_grad()
def measure(
    objective: UnmaskingObjective, data: Any, collate: Callable[[list[Any]], Batch], draws: int = _DRAWS
) -> dict[str, float]:
    """Means over stretches, each masked so many times at levels that cover (0, 1) evenly; seeded."""
    objective.eval()
    generator = torch.Generator().manual_seed(0)
    sums = {"bound": 0.0, "nats": 0.0, "right": 0.0}
    device = objective.target.model.device
    for index in range(len(data)):
        batch = {name: rows.to(device) for name, rows in collate([data[index]] * draws).items()}
        found = objective(**batch, generator=generator)
        for name, value in zip(sums, found.values(), strict=True):
            sums[name] += float(value)
    return {name: total / len(data) for name, total in sums.items()}


def write_with_habits(model: Any, tokenizer: Any, habits: dict[str, Any], folder: Path) -> None:
    """The model as transformers loads it, with "masked_diffusion" in its config."""
    config = model.config
    before = config.__dict__.get("masked_diffusion")
    config.masked_diffusion = habits
    try:
        write_model(model, tokenizer, folder)
    finally:
        config.__dict__.pop("masked_diffusion")
        if before is not None:
            config.masked_diffusion = before
