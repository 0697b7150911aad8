"""The control: a vision-language model that learns answers token by token, from the same encoder and the same data.

    [P_v S_V; E[X_Q]; <bos>; E[Y]]  ->  next-token cross entropy on Y <eos>, causal mask

The same pictures, questions, answers, steps and optimiser as VL-JEPA. Its decoder has as many layers as VL-JEPA's
predictor and Y-Encoder together, so that about as many weights learn.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import DynamicCache

from szilard.options import check_number
from szilard.representation.vl_jepa.decoder import IGNORED, causal_lm, with_ends, written
from szilard.representation.vl_jepa.predictor import small_llama_config
from szilard.representation.vl_jepa.saving import read_folder, save_folder, write_parts
from szilard.representation.vl_jepa.scenes import Example
from szilard.representation.vl_jepa.vision_encoder import vision_from_settings
from szilard.training.loop import Batch


class TokenTwin(nn.Module, PyTorchModelHubMixin, library_name="szilard", tags=["szilard", "vl-jepa"]):  # type: ignore[call-arg]
    """A language model behind visual tokens.

    Args:
        x_encoder: pixels -> visual tokens [B, n, d_v]; kept frozen.
        language_model: causal, of transformers.
        tokenizer: with pad, begin and end tokens.
        visual_width: d_v.
        max_new_tokens: an answer ends here at the latest.

    Raises:
        ValueError: a tokenizer without one of these tokens.
    """

    def __init__(
        self, x_encoder: nn.Module, language_model: Any, tokenizer: Any, *, visual_width: int, max_new_tokens: int = 64
    ) -> None:
        super().__init__()
        check_number("max_new_tokens", max_new_tokens, low=1, integer=True)
        if None in (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id):
            raise ValueError(
                "the twin's tokenizer needs pad, begin and end tokens: set pad_token, bos_token, eos_token."
            )
        self.x_encoder, self.language_model = x_encoder.requires_grad_(False).eval(), language_model
        self.tokenizer, self.visual_width, self.max_new_tokens = tokenizer, visual_width, max_new_tokens
        self.visual_map = nn.Linear(visual_width, int(language_model.config.hidden_size))
        self.trained_on: dict[str, Any] = {}

    @classmethod
    def from_scratch(
        cls, x_encoder: nn.Module, tokenizer: Any, *, width: int = 128, layers: int = 6, heads: int = 4
    ) -> TokenTwin:
        """A small Llama with new weights."""
        from transformers import LlamaForCausalLM

        config = small_llama_config(len(tokenizer), tokenizer.pad_token_id, width=width, layers=layers, heads=heads)
        config.eos_token_id = tokenizer.eos_token_id
        visual_width: Any = x_encoder.width
        return cls(x_encoder, LlamaForCausalLM(config), tokenizer, visual_width=visual_width)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.visual_map.weight.device

    @property
    def settings(self) -> dict[str, Any]:
        """What it is built anew from; weights apart."""
        own = {"visual_width": self.visual_width, "max_new_tokens": self.max_new_tokens}
        return {"x_encoder": self.x_encoder.settings, "config": self.language_model.config.to_dict()} | own

    def train(self, mode: bool = True) -> TokenTwin:
        """As usual, but the frozen X-Encoder stays in eval mode."""
        super().train(mode)
        self.x_encoder.eval()
        return self

    def forward(self, pixels: Tensor, ids: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """{"loss"}: nats per token of the answers; ids [B, m] hold question, <bos>, answer, <eos>, labels the last
        two."""
        inputs = torch.cat([self._visual(pixels), self.language_model.get_input_embeddings()(ids)], dim=1)
        logits = self.language_model(inputs_embeds=inputs, use_cache=False).logits
        logits = logits[:, -ids.shape[1] : -1]  # of the next token; padding stands behind, where nothing looks at it
        return {"loss": F.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED)}

    def collate(self, examples: Sequence[Example]) -> Batch:
        """{"pixels", "ids", "labels"}."""
        tokenizer = self.tokenizer
        answers = tokenizer([example.answer for example in examples], add_special_tokens=False)["input_ids"]
        rows, labels = [], []
        for query, answer in zip(self._queries([example.query for example in examples]), answers, strict=True):
            said = [*answer, tokenizer.eos_token_id]
            rows.append(torch.tensor([*query, *said]))
            labels.append(torch.tensor([*[IGNORED] * len(query), *said]))
        pad = nn.utils.rnn.pad_sequence
        return {
            "pixels": torch.stack([example.pixels for example in examples]),
            "ids": pad(rows, batch_first=True, padding_value=tokenizer.pad_token_id),
            "labels": pad(labels, batch_first=True, padding_value=IGNORED),
        }

    @torch.no_grad()
    def score(self, pixels: Tensor, queries: Sequence[str], candidates: Sequence[str]) -> Tensor:
        """log p(candidate, <eos> | picture, question) [B, C], in nats; the picture and question are read once."""
        model, pad = self.language_model, self.tokenizer.pad_token_id
        ids, mask = with_ends(self.tokenizer, candidates, 512)
        ids, mask = ids.to(self.device), mask.to(self.device)
        visual = self._visual(pixels)
        found = []
        for row, query in zip(visual, self._queries(queries), strict=True):
            asked = model.get_input_embeddings()(torch.tensor(query, device=self.device))
            cache = DynamicCache(config=model.config)
            before = model(inputs_embeds=torch.cat([row, asked])[None], past_key_values=cache, use_cache=True).logits
            cache.batch_repeat_interleave(len(ids))
            after = model(input_ids=ids.masked_fill(~mask, pad), past_key_values=cache, use_cache=True).logits
            logits = torch.cat([before[:, -1:].expand(len(ids), -1, -1), after[:, :-1]], dim=1)
            each = logits.log_softmax(-1).gather(-1, ids.unsqueeze(-1)).squeeze(-1)
            found.append((each * mask).sum(1))
        return torch.stack(found)

    @torch.no_grad()
    def write(self, pixels: Tensor, queries: Sequence[str]) -> list[str]:
        """Answers, written greedily."""
        visual, rows = self._visual(pixels), self._queries(queries)
        longest = max(map(len, rows))
        ids = torch.tensor([[self.tokenizer.pad_token_id] * (longest - len(row)) + row for row in rows])
        there = torch.arange(longest) >= torch.tensor([longest - len(row) for row in rows]).unsqueeze(1)
        asked = self.language_model.get_input_embeddings()(ids.to(self.device))
        # Padding stands between picture and question; it is masked, and positions are counted without it.
        mask = torch.cat([torch.ones(visual.shape[:2], dtype=torch.bool), there], dim=1).to(self.device)
        vectors = torch.cat([visual, asked], dim=1)
        return written(self.language_model, self.tokenizer, vectors, mask, self.max_new_tokens)

    def save_pretrained(self, save_directory: Any, **options: Any) -> Any:
        """Write config.json, model.safetensors, tokenizer and a card; see huggingface_hub for `options`."""
        return save_folder(self, save_directory, super().save_pretrained, options)

    def _save_pretrained(self, save_directory: Path) -> None:
        write_parts(self, save_directory)

    @classmethod
    def _from_pretrained(cls, *, model_id: str, map_location: str = "cpu", **options: Any) -> TokenTwin:
        folder, settings = read_folder(model_id, "vl-jepa-twin", options)
        model = cls(
            vision_from_settings(settings["x_encoder"]),
            causal_lm(settings["config"]),
            folder.tokenizer("tokenizer"),
            visual_width=settings["visual_width"],
            max_new_tokens=settings["max_new_tokens"],
        )
        model.trained_on = settings.get("trained_on", {})
        folder.fill(model)
        return model.to(map_location).eval()

    def _visual(self, pixels: Tensor) -> Tensor:
        with torch.no_grad():
            tokens = self.x_encoder(pixels.to(self.device))
        return self.visual_map(tokens)

    def _queries(self, queries: Sequence[str]) -> list[list[int]]:
        """Question and <bos>; <bos> alone for captions."""
        rows = self.tokenizer(list(queries), add_special_tokens=False)["input_ids"]
        return [[*row, self.tokenizer.bos_token_id] for row in rows]


class TwinObjective(nn.Module):
    """What the loop trains: the twin, its loss {"loss"} in nats per token.

    Args:
        model: the twin.
        weight_decay: of matrices; none for biases and norms.
    """

    def __init__(self, model: TokenTwin, *, weight_decay: float = 0.0) -> None:
        super().__init__()
        self.model, self._decay = model, weight_decay

    def weight_decay_of(self, name: str) -> float:
        """Of a parameter of this module."""
        return 0.0 if name.endswith("bias") or "norm" in name.lower() else self._decay

    def forward(self, pixels: Tensor, ids: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """See `TokenTwin.collate` for the batch."""
        return self.model(pixels, ids, labels)
