"""The recipe of `tiny-vlm`: a Llava model trained from scratch on scenes of coloured shapes.

    python -m szilard_zoo.train_tiny_vlm -o zoo/szilard_zoo/tiny-vlm

One row of a batch is one picture with several independent questions: they share the picture's tokens as a prefix, do
not see each other, and each starts at the position right after the picture, so the model learns single questions at a
fraction of the cost. The loss is the cross-entropy of what the assistant says. A second, linear head learns which
shape of which colour lies under each patch; it is not part of the checkpoint.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers
from torch import nn
from torch.nn import functional
from transformers import (
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from szilard_zoo import scenes

PATCH = 8  # pixels
PATCHES = (scenes.IMAGE_SIZE // PATCH) ** 2
MAX_POSITIONS = 512
PATCH_WEIGHT = 0.3  # of the patch loss beside the text loss
BLIND_SHARE = 0.01  # of the questions are asked without the picture
CONTROL = ("<pad>", "<unk>", "<eos>", "<user>", "<assistant>", "<vision_start>", "<image>", "<vision_end>")
MARKERS = ("<think>", "</think>")  # part of the text: they survive `skip_special_tokens=True`
BLIND = "<think> there is no picture , so i can not see </think> unknown"
EXTRA_WORDS = "please hello thanks what is a the question answer only maybe or not any all image first then also"

CHAT_TEMPLATE = """\
{%- for message in messages -%}
{%- if message['role'] == 'assistant' -%}{{ '<assistant> ' }}{%- else -%}{{ '<user> ' }}{%- endif -%}
{%- if message['content'] is string -%}{{ message['content'] }}
{%- else -%}
{%- for part in message['content'] if part['type'] == 'image' -%}
{{ '<vision_start><image><vision_end> ' }}
{%- endfor -%}
{%- for part in message['content'] if part['type'] == 'text' -%}
{{ part['text'] }}
{%- endfor -%}
{%- endif -%}
{{ ' <eos>' if message['role'] == 'assistant' else ' ' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<assistant>' }}{%- endif -%}
"""


# --- tokenizer, processor, model ------------------------------------------------------------------------------------


def words() -> list[str]:
    """Every word of the training texts, and a few more, sorted."""
    seen = set(EXTRA_WORDS.split()) | set(BLIND.split())
    seen.update(word for colour, shape in scenes.KINDS for word in (colour, shape, scenes.PLURALS[shape]))
    seen.update((*scenes.ROWS, *scenes.COLUMNS, *scenes.NUMBERS))
    for sample in scenes.dataset("train", 5000, seed=0):
        seen.update(sample.question.split(), sample.text.split())
    return sorted(seen - set(MARKERS))


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One id per word: control tokens first, then the thinking markers, then the words."""
    vocabulary = {token: index for index, token in enumerate((*CONTROL, *MARKERS, *words()))}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in CONTROL])
    backend.add_tokens([AddedToken(token, special=False, normalized=False) for token in MARKERS])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="<eos>",
        padding_side="left",
        model_max_length=MAX_POSITIONS,
        clean_up_tokenization_spaces=False,
        extra_special_tokens={
            "image_token": "<image>",
            "vision_start_token": "<vision_start>",
            "vision_end_token": "<vision_end>",
        },
    )


def build_processor(tokenizer: PreTrainedTokenizerFast) -> LlavaProcessor:
    """Pictures of any size are resized to 64x64; needs Pillow, not torchvision."""
    side = {"height": scenes.IMAGE_SIZE, "width": scenes.IMAGE_SIZE}
    image_processor = CLIPImageProcessorPil(
        size=side, crop_size=side, do_center_crop=False, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    return LlavaProcessor(
        image_processor=image_processor,
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,  # the class token, which the "default" strategy drops again
        chat_template=CHAT_TEMPLATE,
    )


def build_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlavaForConditionalGeneration:
    """A stock Llava: CLIP vision tower, two-layer projector, Llama decoder, tied embeddings."""
    torch.manual_seed(seed)
    ids = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=96,
            intermediate_size=288,
            num_hidden_layers=3,
            num_attention_heads=3,
            image_size=scenes.IMAGE_SIZE,
            patch_size=PATCH,
            projection_dim=96,
            initializer_range=0.08,
        ),
        text_config=LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=384,
            num_hidden_layers=4,
            initializer_range=0.08,  # about 1 / sqrt(width): at the usual 0.02 attention stays uniform for too long
            num_attention_heads=4,
            max_position_embeddings=MAX_POSITIONS,
            tie_word_embeddings=True,
            **ids,
        ),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=PATCHES,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        tie_word_embeddings=True,
        **ids,
    )
    model = LlavaForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, max_new_tokens=128, do_sample=False
    )
    return model


# --- batches --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Batch:
    """Packed rows.

    Attributes:
        pixels: [rows, 3, 64, 64] in -1..1.
        ids, positions, labels: [rows, length]; labels are already shifted, -100 where nothing is learnt.
        visible: [rows, 1, length, length], True where a query may look at a key.
        patches: [rows, patches, 2] colour and shape under each patch, 0 for background.
        answered: number of learnt tokens.
    """

    pixels: torch.Tensor
    ids: torch.Tensor
    positions: torch.Tensor
    labels: torch.Tensor
    visible: torch.Tensor
    patches: torch.Tensor
    answered: int


def _patch_labels(scene: scenes.Scene) -> np.ndarray:
    """[patches, 2] colour and shape whose disc covers the middle of each patch; 0 for background."""
    side = scenes.IMAGE_SIZE // PATCH
    middle = (np.arange(side) + 0.5) * PATCH
    labels = np.zeros((side, side, 2), dtype=np.int64)
    for item in scene.objects:
        covered = (middle[:, None] - item.y) ** 2 + (middle[None, :] - item.x) ** 2 < (item.radius * 0.95) ** 2
        labels[covered] = (
            1 + list(scenes.COLOURS).index(item.colour),
            1 + list(scenes.SHAPES).index(item.shape),
        )
    return labels.reshape(-1, 2)


class Packer:
    """Makes the batch of a step from the seed and the step alone, so that a resumed run sees the same data."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, *, rows: int, questions: int, seed: int) -> None:
        self.ids = dict(tokenizer.get_vocab())
        self.rows, self.questions, self.seed = rows, questions, seed
        image = [self.ids["<image>"]] * PATCHES
        self.prefix = [self.ids["<user>"], self.ids["<vision_start>"], *image, self.ids["<vision_end>"]]

    def encode(self, text: str) -> list[int]:
        return [self.ids[word] for word in text.split()]

    def __call__(self, step: int) -> Batch:
        rng = random.Random(f"{self.seed} {step}")
        # A segment is (ids, where the assistant starts to speak, first position, sees the picture).
        rows: list[list[tuple[list[int], int, int, bool]]] = []
        pictures, patches = [], []
        for _ in range(self.rows):
            scene = scenes.scene_of(rng, "train")
            segments = []
            for sample in scenes.training_questions(scene, rng, self.questions):
                blind = rng.random() < BLIND_SHARE
                asked = self.encode(("<user> " if blind else "") + sample.question + " <assistant>")
                said = self.encode((BLIND if blind else sample.text) + " <eos>")
                segments.append((asked + said, len(asked), 0 if blind else len(self.prefix), not blind))
            rows.append(segments)
            pictures.append(np.asarray(scenes.render(scene)))
            patches.append(_patch_labels(scene))

        start = len(self.prefix)
        length = start + max(sum(len(segment[0]) for segment in segments) for segments in rows)
        ids = np.full((self.rows, length), self.ids["<pad>"])
        positions = np.zeros((self.rows, length), dtype=np.int64)
        labels = np.full((self.rows, length), -100)
        group = np.full((self.rows, length), -1)  # which segment a token belongs to; 0 is the picture
        sees = np.zeros((self.rows, length), dtype=bool)
        for row, segments in enumerate(rows):
            ids[row, :start], positions[row, :start], group[row, :start] = self.prefix, np.arange(start), 0
            at = start
            for number, (tokens, spoken, first, sighted) in enumerate(segments, start=1):
                end = at + len(tokens)
                ids[row, at:end] = tokens
                positions[row, at:end] = np.arange(first, first + len(tokens))
                group[row, at:end] = number
                sees[row, at:end] = sighted
                labels[row, at + spoken - 1 : end - 1] = tokens[spoken:]
                at = end
        groups = torch.from_numpy(group)
        same = groups[:, :, None] == groups[:, None, :]  # [rows, query, key]; padding sees padding
        picture = torch.from_numpy(sees)[:, :, None] & (groups == 0)[:, None, :]
        visible = ((same | picture) & torch.ones(length, length, dtype=torch.bool).tril()).unsqueeze(1)
        pixels = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1
        return Batch(
            pixels=pixels,
            ids=torch.from_numpy(ids),
            positions=torch.from_numpy(positions),
            labels=torch.from_numpy(labels),
            visible=visible,
            patches=torch.from_numpy(np.stack(patches)),
            answered=int((labels >= 0).sum()),
        )


# --- training -------------------------------------------------------------------------------------------------------


class Trainee(nn.Module):
    """The model and the patch head that only exists during training."""

    def __init__(self, model: LlavaForConditionalGeneration) -> None:
        super().__init__()
        self.model = model
        self.patch_classes = (len(scenes.COLOURS) + 1, len(scenes.SHAPES) + 1)
        self.patch_head = nn.Linear(model.config.vision_config.hidden_size, sum(self.patch_classes))

    def forward(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean cross-entropy of the assistant's tokens and of the patches, in nats."""
        llava = self.model.model
        seen = llava.vision_tower(batch.pixels).last_hidden_state[:, 1:]  # [rows, patches, width], no class token
        features = llava.multi_modal_projector(seen)
        embeddings = llava.get_input_embeddings()(batch.ids)
        where = (batch.ids == self.model.config.image_token_index).unsqueeze(-1)
        embeddings = embeddings.masked_scatter(where, features.to(embeddings.dtype))
        hidden = llava.language_model(
            inputs_embeds=embeddings, attention_mask=batch.visible, position_ids=batch.positions, use_cache=False
        ).last_hidden_state
        learnt = batch.labels >= 0
        text_loss = functional.cross_entropy(self.model.lm_head(hidden[learnt]).float(), batch.labels[learnt])

        logits = self.patch_head(seen).float().flatten(0, 1).split(self.patch_classes, dim=-1)
        colour_loss, shape_loss = (
            functional.cross_entropy(each, batch.patches[..., index].flatten()) for index, each in enumerate(logits)
        )
        return text_loss, colour_loss + shape_loss


def learning_rate(progress: float, peak: float, *, warmup: float = 0.03, floor: float = 0.02) -> float:
    """Linear warm-up, then a cosine to `floor` of the peak; progress in 0..1."""
    if progress < warmup:
        return peak * (progress + 1e-3) / warmup
    turn = math.pi * min(1.0, (progress - warmup) / (1 - warmup))
    return peak * (floor + (1 - floor) * (1 + math.cos(turn)) / 2)


def _optimizer(trainee: Trainee, peak: float) -> torch.optim.AdamW:
    decayed = [p for p in trainee.parameters() if p.dim() >= 2]
    plain = [p for p in trainee.parameters() if p.dim() < 2]
    groups: list[dict[str, Any]] = [{"params": decayed, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=peak, betas=(0.9, 0.98))


def _save_atomically(state: dict[str, Any], path: Path) -> None:
    """A process killed half-way leaves the previous file."""
    partial = path.with_name(path.name + ".partial")
    torch.save(state, partial)
    os.replace(partial, path)


def save_checkpoint(model: LlavaForConditionalGeneration, processor: LlavaProcessor, folder: Path) -> None:
    """Everything `AutoModelForImageTextToText` and `AutoProcessor` need, in one folder."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def train(
    folder: Path,
    *,
    steps: int = 2400,
    minutes: float | None = None,
    rows: int = 16,
    questions: int = 6,
    peak: float = 2e-3,
    seed: int = 0,
    resume: bool = False,
    threads: int = 2,
    save_every: int = 200,
) -> None:
    """Train the model and write its folder.

    Args:
        folder: where the checkpoint goes; the state of an unfinished run lies beside it.
        steps: optimizer steps; the learning rate follows step / steps.
        minutes: end after this many minutes of training instead; the learning rate follows the clock.
        rows: pictures per step.
        questions: questions per picture.
        peak: highest learning rate.
        seed: of the initial weights and of the data.
        resume: go on from the state of an interrupted run.
        threads: torch threads.
        save_every: steps between two states on disk.

    Raises:
        ValueError: `resume` without a state to resume from.
    """
    torch.set_num_threads(threads)
    state_path = folder.with_name(folder.name + ".training.pt")
    if resume and not state_path.exists():
        raise ValueError(f"nothing to resume: {state_path} does not exist; leave --resume out to start")
    folder.parent.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer()
    processor = build_processor(tokenizer)
    trainee = Trainee(build_model(tokenizer, seed))
    optimizer = _optimizer(trainee, peak)
    pack = Packer(tokenizer, rows=rows, questions=questions, seed=seed)
    step, spent = 0, 0.0
    if resume:
        state = torch.load(state_path, weights_only=True)
        trainee.load_state_dict(state["trainee"])
        optimizer.load_state_dict(state["optimizer"])
        step, spent = state["step"], state["spent"]
        print(f"resumed at step {step} after {spent / 60:.1f} minutes", flush=True)
    size = sum(p.numel() for p in trainee.model.parameters())
    print(f"{size:,} parameters, {len(tokenizer)} words, {rows} pictures x {questions} questions per step", flush=True)

    trainee.train()
    last, shown, tokens = time.monotonic(), [], 0
    since = last
    progress = step / steps if minutes is None else spent / (60 * minutes)
    while progress < 1:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(progress, peak)
        batch = pack(step)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            text_loss, patch_loss = trainee(batch)
        (text_loss + PATCH_WEIGHT * patch_loss).backward()
        nn.utils.clip_grad_norm_(trainee.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        now = time.monotonic()
        spent, last = spent + now - last, now
        shown.append((text_loss.item(), patch_loss.item()))
        progress = step / steps if minutes is None else spent / (60 * minutes)
        tokens += batch.answered
        if step % 50 == 0 or step == 1:
            text, patch = (sum(values) / len(shown) for values in zip(*shown, strict=True))
            left = spent * (1 - progress) / progress if minutes is None else 60 * minutes - spent
            speed = tokens / (now - since)
            print(
                f"step {step}  loss {text:.4f}  patches {patch:.4f}  lr {group['lr']:.1e}  "
                f"{speed:,.0f} tokens/s  {len(shown) * rows / (now - since):.1f} pictures/s  "
                f"spent {spent / 60:.1f} min  left {left / 60:.1f} min",
                flush=True,
            )
            shown, tokens, since = [], 0, now
        if step % save_every == 0:
            _save_atomically(
                {"trainee": trainee.state_dict(), "optimizer": optimizer.state_dict(), "step": step, "spent": spent},
                state_path,
            )
    trainee.eval()
    save_checkpoint(trainee.model, processor, folder)
    state_path.unlink(missing_ok=True)
    print(f"wrote {folder} after {step} steps, {spent / 60:.1f} minutes", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line of the recipe."""
    parser = argparse.ArgumentParser(
        prog="python -m szilard_zoo.train_tiny_vlm", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument("--steps", type=int, default=2400, help="optimizer steps (default: %(default)s)")
    parser.add_argument("--minutes", type=float, help="train for so long instead of a number of steps")
    parser.add_argument("--batch-size", type=int, default=16, help="pictures per step (default: %(default)s)")
    parser.add_argument("--questions", type=int, default=6, help="questions per picture (default: %(default)s)")
    parser.add_argument("--learning-rate", type=float, default=2e-3, help="its peak (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and data (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="torch threads (default: %(default)s)")
    parser.add_argument("--resume", action="store_true", help="go on after an interruption")
    given = parser.parse_args(arguments)
    train(
        given.output,
        steps=given.steps,
        minutes=given.minutes,
        rows=given.batch_size,
        questions=given.questions,
        peak=given.learning_rate,
        seed=given.seed,
        resume=given.resume,
        threads=given.threads,
    )


if __name__ == "__main__":
    main()
