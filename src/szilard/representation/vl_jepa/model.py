"""VL-JEPA: a vision-language model that predicts the embedding of an answer instead of its tokens.

Chen, Shukor, Moutakanni, Chung, Yu, Kasarla, Bang, Bolourchi, LeCun, Fung, "VL-JEPA: Joint Embedding Predictive
Architecture for Vision-language", arXiv:2512.10942.

    s^ = normalise(predictor(X-Encoder(X_V), X_Q))      [B, D]
    s  = normalise(Y-Encoder(Y))                        [B, D]
    L  = InfoNCE(s^, s) in both directions, at a learned temperature

A question with candidates is answered by the nearest s, a search by the nearest s^; text is written by a Y-Decoder
(`decoder.YDecoder`) only where somebody reads it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn
from torch.nn import functional as F

from szilard.information.contrastive import LOSSES, info_nce, regression_loss
from szilard.options import check_choice, check_number
from szilard.representation.vl_jepa.predictor import VLJEPAPredictor
from szilard.representation.vl_jepa.ranking import Ranked, ranked
from szilard.representation.vl_jepa.saving import read_folder, save_folder, write_parts
from szilard.representation.vl_jepa.text_encoder import TextEncoder
from szilard.representation.vl_jepa.vision_encoder import vision_from_settings

_HOTTEST = math.log(100.0)  # as CLIP: a larger scale trains badly
PREDICT_BATCH = 256  # rows at once when texts are encoded


class LearnableTemperature(nn.Module):
    """exp(log_scale), the inverse of a temperature that learns; at most 100.

    Args:
        start: the first temperature tau; 0.07 as CLIP (inferred: the paper gives none).
        learn: False keeps it.
    """

    def __init__(self, start: float = 0.07, learn: bool = True) -> None:
        super().__init__()
        check_number("start", start, low=0.01)
        self.log_scale = nn.Parameter(torch.tensor(-math.log(start)), requires_grad=learn)

    def forward(self) -> Tensor:
        """1 / tau."""
        with torch.no_grad():  # the weight itself, so that it can come back: beyond a clamp there is no gradient
            self.log_scale.clamp_(max=_HOTTEST)
        return self.log_scale.exp()


@dataclass(frozen=True)
class VLJEPAOutput:
    """What a batch gives.

    Attributes:
        loss: a scalar.
        predicted: s^ [B, D], of length 1.
        target: s [B, D], of length 1.
    """

    loss: Tensor
    predicted: Tensor
    target: Tensor


class VLJEPA(nn.Module, PyTorchModelHubMixin, library_name="szilard", tags=["szilard", "vl-jepa"]):  # type: ignore[call-arg]
    """The X-Encoder (frozen), the predictor, the Y-Encoder and the temperature.

    Args:
        x_encoder: pixels -> visual tokens [B, n, d_v]; kept frozen.
        predictor: of the answer's embedding.
        y_encoder: of the answer.
        query_tokenizer, answer_tokenizer: of transformers, with a pad token; None: give token ids yourself.
        y_lr_mult: the Y-Encoder's share of the learning rate; its new head learns at the full one (inferred).
        temperature: None: from 0.07, learned.
        max_tokens: longer queries and answers are cut.

    Raises:
        ValueError: widths that do not fit.
    """

    def __init__(
        self,
        x_encoder: nn.Module,
        predictor: VLJEPAPredictor,
        y_encoder: TextEncoder,
        *,
        query_tokenizer: Any = None,
        answer_tokenizer: Any = None,
        y_lr_mult: float = 0.05,
        temperature: LearnableTemperature | None = None,
        max_tokens: int = 512,
    ) -> None:
        super().__init__()
        check_number("y_lr_mult", y_lr_mult, low=0)
        check_number("max_tokens", max_tokens, low=1, integer=True)
        if predictor.embed_dim != y_encoder.embed_dim:
            raise ValueError(
                f"the predictor gives embeddings of {predictor.embed_dim}, the Y-Encoder of {y_encoder.embed_dim}: "
                "build both with the same embed_dim."
            )
        width = getattr(x_encoder, "width", predictor.visual_width)
        if width != predictor.visual_width:
            raise ValueError(
                f"the X-Encoder gives tokens of {width}, but the predictor reads {predictor.visual_width}: build it "
                f"with visual_width={width}."
            )
        self.x_encoder, self.predictor, self.y_encoder = x_encoder.requires_grad_(False).eval(), predictor, y_encoder
        self.query_tokenizer, self.answer_tokenizer = query_tokenizer, answer_tokenizer
        for tokenizer in (query_tokenizer, answer_tokenizer):
            if tokenizer is not None and tokenizer.pad_token_id is None:
                raise ValueError("a tokenizer without a pad token cannot make batches: set its pad_token.")
        self.y_lr_mult, self.max_tokens = float(y_lr_mult), max_tokens
        self.temperature = LearnableTemperature() if temperature is None else temperature
        self.trained_on: dict[str, Any] = {}  # for the card

    @property
    def embed_dim(self) -> int:
        """D."""
        return self.predictor.embed_dim

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.temperature.log_scale.device

    @property
    def settings(self) -> dict[str, Any]:
        """What a saved model is built anew from.

        Raises:
            ValueError: an X-Encoder of the user's own, without `settings`.
        """
        if not hasattr(self.x_encoder, "settings"):
            raise ValueError(
                f"a {type(self.x_encoder).__name__} cannot be written as a config: save its weights and those of the "
                "predictor and the Y-Encoder yourself."
            )
        return {
            "x_encoder": self.x_encoder.settings,
            "predictor": self.predictor.settings,
            "y_encoder": self.y_encoder.settings,
            "y_lr_mult": self.y_lr_mult,
            "max_tokens": self.max_tokens,
            "learn_temperature": self.temperature.log_scale.requires_grad,
        }

    def train(self, mode: bool = True) -> VLJEPA:
        """As usual, but the frozen X-Encoder stays in eval mode."""
        super().train(mode)
        self.x_encoder.eval()
        return self

    def forward(
        self,
        visual: Tensor,
        answers: Any,
        query_ids: Any = None,
        query_mask: Tensor | None = None,
        answer_mask: Tensor | None = None,
        groups: Tensor | None = None,
        *,
        loss: str = "info_nce",
        duplicates: str = "ignored",
    ) -> VLJEPAOutput:
        """The loss of a batch, and the embeddings it is between.

        Args:
            visual, query_ids, query_mask: see `predict`.
            answers, answer_mask: B texts, or token ids [B, m] and their mask.
            groups: int64 [B], equal for equal answers; None: found of texts, and not looked for of ids.
            loss: "info_nce", or "cosine", "l1", "l2", which need a frozen Y-Encoder.
            duplicates: of InfoNCE, see `info_nce`.
        """
        check_choice("loss", loss, LOSSES)
        predicted, target = self.predict(visual, query_ids, query_mask), self.encode_text(answers, answer_mask)
        if loss != "info_nce":
            return VLJEPAOutput(regression_loss(predicted, target, loss), predicted, target)
        if groups is None and not isinstance(answers, Tensor):
            number = {text: place for place, text in enumerate(answers)}
            groups = torch.tensor([number[text] for text in answers])
        found = info_nce(predicted, target, self.temperature(), groups=groups, duplicates=duplicates)
        return VLJEPAOutput(found, predicted, target)

    @torch.no_grad()
    def encode_visual(self, pixels: Tensor) -> Tensor:
        """S_V [B, n, d_v] of pixels; a video's is computed once for all its queries."""
        return self.x_encoder(pixels.to(self.device))

    def predict(self, visual: Tensor, query_ids: Any = None, query_mask: Tensor | None = None) -> Tensor:
        """The embedding of the answer.

        Args:
            visual: pixels [B, 3, H, W] or [B, frames, 3, H, W], or visual tokens [B, n, d_v].
            query_ids: token ids int64 [B, m], or texts, one for all or one each; None: no query, as in stage 1.
            query_mask: [B, m], of the ids.

        Returns:
            [B, D], of length 1.
        """
        tokens = visual.to(self.device) if visual.dim() == 3 else self.encode_visual(visual)
        if isinstance(query_ids, str):
            query_ids = [query_ids] * len(tokens)
        if isinstance(query_ids, (list, tuple)):
            query_ids, query_mask = tokenized(self.query_tokenizer, query_ids, self.max_tokens)
        if query_ids is not None:
            query_ids = query_ids.to(self.device)
            query_mask = None if query_mask is None else query_mask.to(self.device)
        return F.normalize(self.predictor(tokens, query_ids, query_mask), dim=-1)

    def encode_text(self, texts: Any, mask: Tensor | None = None) -> Tensor:
        """Texts, or their ids [B, m] with a mask, to embeddings of length 1 [B, D]."""
        if isinstance(texts, Tensor):
            own = None if mask is None else mask.to(self.device)
            return F.normalize(self.y_encoder(texts.to(self.device), own), dim=-1)
        if isinstance(texts, str) or not len(texts):
            raise ValueError("texts must be a list with one text at least.")
        ids, own = tokenized(self.answer_tokenizer, list(texts), self.max_tokens)
        parts = zip(ids.split(PREDICT_BATCH), own.split(PREDICT_BATCH), strict=True)
        found = [self.y_encoder(part.to(self.device), there.to(self.device)) for part, there in parts]
        return F.normalize(torch.cat(found), dim=-1)

    @torch.no_grad()
    def classify(
        self, predicted: Tensor, labels: Sequence[str], *, prompt: str | Sequence[str] = "{}", top_k: int = 1
    ) -> Ranked:
        """The labels nearest to predicted embeddings.

        Args:
            predicted: [B, D], of any length.
            labels: candidates.
            prompt: what a label is put into; several are averaged.
            top_k: how many labels are given back.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        if isinstance(labels, str) or not labels or not prompts or not all("{}" in one for one in prompts):
            raise ValueError("give a list with one label at least, and prompts that hold {} in the label's place.")
        each = torch.stack([self.encode_text([one.replace("{}", label) for label in labels]) for one in prompts])
        return ranked(predicted, each.mean(0), top_k, list(labels))

    def vqa(self, predicted: Tensor, candidates: Sequence[str], *, top_k: int = 1) -> Ranked:
        """The candidate answers nearest to predicted embeddings [B, D]: discriminative question answering."""
        return self.classify(predicted, candidates, top_k=top_k)

    @torch.no_grad()
    def retrieve(self, query_texts: Sequence[str], visual_embeddings: Tensor, *, top_k: int = 10) -> Ranked:
        """The pictures or videos nearest to texts.

        Args:
            query_texts: what is searched for, Q texts.
            visual_embeddings: [N, D], `predict` under one fixed caption prompt, or none.
            top_k: how many are given back each, [Q, k].
        """
        return ranked(self.encode_text(query_texts), visual_embeddings, top_k)

    @torch.no_grad()
    def choose_action(self, before: Tensor, after: Tensor, clips: Tensor, *, frames: int = 2) -> Ranked:
        """The clips that lead from one state to another, the likeliest first.

        Both states, `frames` times each, are read as one clip; the nearest candidate by cosine is what happened.

        Args:
            before, after: pictures [B, 3, H, W].
            clips: C candidates each, [B, C, frames, 3, H, W].
            frames: how often a picture is repeated.

        Raises:
            ValueError: shapes that do not belong together.
        """
        check_number("frames", frames, low=1, integer=True)
        if before.dim() != 4 or before.shape != after.shape or clips.dim() != 6 or len(clips) != len(before):
            raise ValueError(
                "before and after must be [B, 3, H, W] and clips [B, C, frames, 3, H, W], not "
                f"{tuple(before.shape)}, {tuple(after.shape)} and {tuple(clips.shape)}."
            )
        change = self.predict(torch.stack([before, after], dim=1).repeat_interleave(frames, dim=1))
        each = self.predict(clips.flatten(0, 1)).unflatten(0, clips.shape[:2])
        return ranked(change, each, clips.shape[1])

    @torch.no_grad()
    def score(self, pixels: Tensor, queries: Sequence[str], candidates: Sequence[str]) -> Tensor:
        """Cosines [B, C] of pictures under their questions ("" for captions) with candidate texts."""
        asked = list(queries) if any(queries) else None
        return self.predict(pixels, asked) @ self.encode_text(candidates).T

    def save_pretrained(self, save_directory: Any, **options: Any) -> Any:
        """Write config.json, model.safetensors, tokenizers and a card; see huggingface_hub for `options`."""
        return save_folder(self, save_directory, super().save_pretrained, options)

    def _save_pretrained(self, save_directory: Path) -> None:
        write_parts(self, save_directory)

    @classmethod
    def _from_pretrained(cls, *, model_id: str, map_location: str = "cpu", **options: Any) -> VLJEPA:
        """Called by `from_pretrained`, which takes a folder or a hub id."""
        folder, settings = read_folder(model_id, "vl-jepa", options)
        model = cls(
            vision_from_settings(settings["x_encoder"]),
            VLJEPAPredictor.from_settings(settings["predictor"]),
            TextEncoder.from_settings(settings["y_encoder"]),
            query_tokenizer=folder.tokenizer("query_tokenizer"),
            answer_tokenizer=folder.tokenizer("answer_tokenizer"),
            y_lr_mult=settings["y_lr_mult"],
            temperature=LearnableTemperature(learn=settings["learn_temperature"]),
            max_tokens=settings["max_tokens"],
        )
        model.trained_on = settings.get("trained_on", {})
        model.float()  # a stock part's config may name the type that its model once had
        folder.fill(model)
        return model.to(map_location).eval()


def tokenized(tokenizer: Any, texts: Sequence[str], longest: int) -> tuple[Tensor, Tensor]:
    """Ids int64 [B, m] padded on the right, and bool [B, m].

    Raises:
        ValueError: there is no tokenizer.
    """
    if tokenizer is None:
        raise ValueError("this model has no tokenizer: give token ids, or build it with one.")
    found = tokenizer(
        list(texts), return_tensors="pt", padding=True, padding_side="right", truncation=True, max_length=longest
    )
    return found["input_ids"].long(), found["attention_mask"].bool()
