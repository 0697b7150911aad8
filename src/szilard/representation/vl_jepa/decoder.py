"""The Y-Decoder: embeddings to text, for those moments when somebody reads it.

Chen et al., "VL-JEPA", arXiv:2512.10942, say only that it is light and no part of the main training. Here (inferred): a
small causal language model reads an embedding as k prefix vectors,

    [W_1 e, ..., W_k e, y_1, ..., y_m]  ->  y_1 ... y_m <eos>,       e = normalise(S_Y + noise)

It is trained on the Y-Encoder's embeddings of texts, with the Y-Encoder frozen, and given the predicted S^_Y when used.
Noise makes it bear the distance between the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn
from torch.nn import functional as F

from szilard.options import check_number
from szilard.representation.vl_jepa.model import VLJEPA, tokenized
from szilard.representation.vl_jepa.predictor import small_llama_config
from szilard.representation.vl_jepa.saving import read_folder, save_folder, write_parts
from szilard.representation.vl_jepa.scenes import Example
from szilard.training.loop import Batch

IGNORED = -100


class YDecoder(nn.Module, PyTorchModelHubMixin, library_name="szilard", tags=["szilard", "vl-jepa"]):  # type: ignore[call-arg]
    """A causal language model behind prefix vectors.

    Args:
        language_model: of transformers, with its head.
        tokenizer: of it, with pad and end tokens.
        embed_dim: D, of the embeddings.
        prefix: k, vectors that an embedding becomes.
        max_new_tokens: a text ends here at the latest.

    Raises:
        ValueError: a tokenizer without an end or a pad token.
    """

    def __init__(
        self, language_model: Any, tokenizer: Any, *, embed_dim: int, prefix: int = 4, max_new_tokens: int = 64
    ) -> None:
        super().__init__()
        for name, value in (("embed_dim", embed_dim), ("prefix", prefix), ("max_new_tokens", max_new_tokens)):
            check_number(name, value, low=1, integer=True)
        if tokenizer.eos_token_id is None or tokenizer.pad_token_id is None:
            raise ValueError("a decoder's tokenizer needs an end token and a pad token: set eos_token and pad_token.")
        self.language_model, self.tokenizer = language_model, tokenizer
        self.embed_dim, self.prefix, self.max_new_tokens = embed_dim, prefix, max_new_tokens
        self.width = int(language_model.config.hidden_size)
        self.prefix_map = nn.Linear(embed_dim, prefix * self.width)  # W
        self.trained_on: dict[str, Any] = {}

    @classmethod
    def from_scratch(
        cls,
        tokenizer: Any,
        *,
        embed_dim: int,
        width: int = 96,
        layers: int = 2,
        heads: int = 4,
        prefix: int = 4,
        max_new_tokens: int = 64,
    ) -> YDecoder:
        """A small Llama with new weights."""
        from transformers import LlamaForCausalLM

        config = small_llama_config(len(tokenizer), tokenizer.pad_token_id, width=width, layers=layers, heads=heads)
        config.eos_token_id = tokenizer.eos_token_id
        return cls(
            LlamaForCausalLM(config), tokenizer, embed_dim=embed_dim, prefix=prefix, max_new_tokens=max_new_tokens
        )

    @property
    def settings(self) -> dict[str, Any]:
        """What it is built anew from; weights apart."""
        own = {name: getattr(self, name) for name in ("embed_dim", "prefix", "max_new_tokens")}
        return {"config": self.language_model.config.to_dict()} | own

    def forward(self, embeddings: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """Cross entropy in nats per token of texts given their embeddings.

        Args:
            embeddings: [B, D].
            ids, mask: [B, m], padded on the right, each with its end token.
        """
        model = self.language_model
        before = self.prefix_vectors(embeddings)
        inputs = torch.cat([before, model.get_input_embeddings()(ids)], dim=1)
        logits = model(inputs_embeds=inputs, use_cache=False).logits[:, self.prefix - 1 : -1]
        return F.cross_entropy(logits.flatten(0, 1), ids.masked_fill(~mask.bool(), IGNORED).flatten())

    def prefix_vectors(self, embeddings: Tensor) -> Tensor:
        """[B, D], of any length -> [B, k, width].

        Raises:
            ValueError: another width.
        """
        if embeddings.dim() != 2 or embeddings.shape[1] != self.embed_dim:
            raise ValueError(f"embeddings must be [n, {self.embed_dim}], not {tuple(embeddings.shape)}.")
        unit = F.normalize(embeddings.to(self.prefix_map.weight), dim=-1)
        # Entries of a unit vector are about 1/sqrt(D); the map is given numbers of size 1.
        return self.prefix_map(unit * self.embed_dim**0.5).unflatten(1, (self.prefix, self.width))

    @torch.no_grad()
    def decode(self, embeddings: Tensor) -> list[str]:
        """[n, D] -> n texts, written greedily."""
        if not len(embeddings):
            return []
        before = self.prefix_vectors(embeddings)
        return written(self.language_model, self.tokenizer, before, None, self.max_new_tokens)

    def save_pretrained(self, save_directory: Any, **options: Any) -> Any:
        """Write config.json, model.safetensors, tokenizer and a card; see huggingface_hub for `options`."""
        return save_folder(self, save_directory, super().save_pretrained, options)

    def _save_pretrained(self, save_directory: Path) -> None:
        write_parts(self, save_directory)

    @classmethod
    def _from_pretrained(cls, *, model_id: str, map_location: str = "cpu", **options: Any) -> YDecoder:
        folder, settings = read_folder(model_id, "vl-jepa-decoder", options)
        names = ("embed_dim", "prefix", "max_new_tokens")
        model = cls(
            causal_lm(settings["config"]), folder.tokenizer("tokenizer"), **{name: settings[name] for name in names}
        )
        model.trained_on = settings.get("trained_on", {})
        folder.fill(model)
        return model.to(map_location).eval()


class YDecoderObjective(nn.Module):
    """Texts from their own embeddings: {"loss"}, nats per token.

    Args:
        decoder: what learns.
        model: whose Y-Encoder makes the embeddings; it stays as it is.
        noise: length of the Gaussian noise on an embedding of length 1, before it is brought to length 1 again.
    """

    def __init__(self, decoder: YDecoder, model: VLJEPA, *, noise: float = 0.3) -> None:
        super().__init__()
        check_number("noise", noise, low=0)
        self.decoder, self.noise = decoder, noise
        self._frozen = [model.eval()]  # in a list: no part of what is saved

    def forward(self, answer_ids: Tensor, answer_mask: Tensor, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """The Y-Encoder's tokens of the answers, and the decoder's, all [B, m]."""
        model = self._frozen[0]
        with torch.no_grad():
            embeddings = model.encode_text(answer_ids, answer_mask)
            if self.training and self.noise:
                embeddings = embeddings + torch.randn_like(embeddings) * (self.noise / embeddings.shape[1] ** 0.5)
        return {"loss": self.decoder(embeddings, ids, mask)}


class DecoderCollator:
    """Examples to a batch of `YDecoderObjective`."""

    def __init__(self, decoder: YDecoder, model: VLJEPA) -> None:
        self.tokenizer, self.answers, self.longest = decoder.tokenizer, model.answer_tokenizer, model.max_tokens

    def __call__(self, examples: Sequence[Example]) -> Batch:
        """{"answer_ids", "answer_mask", "ids", "mask"}, all [B, m]."""
        texts = [example.answer for example in examples]
        answer_ids, answer_mask = tokenized(self.answers, texts, self.longest)
        ids, mask = with_ends(self.tokenizer, texts, self.longest)
        return {"answer_ids": answer_ids, "answer_mask": answer_mask, "ids": ids, "mask": mask}


def with_ends(tokenizer: Any, texts: Sequence[str], longest: int) -> tuple[Tensor, Tensor]:
    """Ids int64 [B, m] with the end token behind each text, padded on the right, and bool [B, m]."""
    rows = tokenizer(list(texts), add_special_tokens=False, truncation=True, max_length=longest)["input_ids"]
    tensors = [torch.tensor([*row, tokenizer.eos_token_id]) for row in rows]
    ids = nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=tokenizer.pad_token_id)
    lengths = torch.tensor([len(row) for row in tensors])
    return ids, torch.arange(ids.shape[1]) < lengths.unsqueeze(1)


@torch.no_grad()
def written(model: Any, tokenizer: Any, vectors: Tensor, mask: Tensor | None, longest: int) -> list[str]:
    """Greedy texts behind input vectors [B, n, width], padded on the left where a mask [B, n] says so."""
    mask = torch.ones(vectors.shape[:2], dtype=torch.long, device=vectors.device) if mask is None else mask.long()
    ids = model.generate(
        inputs_embeds=vectors,
        attention_mask=mask,
        max_new_tokens=longest,
        do_sample=False,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return [text.strip() for text in tokenizer.batch_decode(ids, skip_special_tokens=True)]


def causal_lm(config: dict[str, Any]) -> Any:
    """A causal language model as its config says, with new weights."""
    from transformers import AutoConfig, AutoModelForCausalLM

    rest = {name: value for name, value in config.items() if name not in ("model_type", "transformers_version")}
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(config["model_type"], **rest))
