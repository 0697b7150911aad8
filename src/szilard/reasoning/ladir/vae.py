"""LaDiR's text VAE: a sentence becomes a few continuous thought tokens, from which a frozen model writes it again.

Kang et al. 2025, arXiv 2510.04573.

    encoder    [sentence, L_b learned queries] --LLM (tuned)--> hidden states at the queries --> mu, log var [L_b, d_z]
    z          mu + exp(0.5 log var) eps;   in training + k N(0, I)
    decoder    [W_dec z (L_b vectors), AE vector, sentence] --the pretrained LLM, frozen--> the sentence and its end
    loss       CE + beta KL,   KL = -1/2 mean(1 + log var - mu^2 - exp(log var)): a mean over all entries, not a sum

In training every input token of the encoder is replaced by a random one with probability p; the clean text is
reconstructed. The AE vector between prefix and text is the released code's.

# Released code: queries of width d_z through W_dec; no masks for padding; its decoder is a disabled adapter in training
# only. Here: queries of the model's width; masks and positions; one frozen decoder in both.
# Released code: a fixed shift and scale of the latents, commented out. Here: `fit_normaliser`, from the data.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional

from szilard.engines.engine import Engine
from szilard.engines.loading import load
from szilard.engines.model_parts import unembed, weights_fingerprint
from szilard.options import check_bool, check_choice, check_number
from szilard.reasoning.examples import IGNORED
from szilard.reasoning.ladir.mask import as_attention_mask, padded_causal
from szilard.reasoning.ladir.tuned import TunedModel
from szilard.training.add_on import AddOn
from szilard.training.loop import Batch

ENCODER = "encoder.safetensors"


class VaeParts(AddOn):
    """What the VAE adds to its two models.

    Args:
        base: of the decoder's model, as `AddOn`.
        latent_tokens: L_b.
        latent_dim: d_z.
        beta, latent_noise, token_sub_prob: of the loss: beta, k, p.
        ae_token: whether a learned vector stands between the prefix and the text.
        lora_rank: of the encoder's changes; None: whole.
        scale: size of the model's input embeddings, where new vectors begin.
    """

    slug: ClassVar[str] = "ladir-vae"

    def __init__(
        self,
        base: dict[str, Any],
        latent_tokens: int = 4,
        latent_dim: int = 512,
        beta: float = 1e-5,
        latent_noise: float = 3.0,
        token_sub_prob: float = 0.3,
        ae_token: bool = True,
        lora_rank: int | None = None,
        scale: float = 1.0,
    ) -> None:
        super().__init__(base)
        check_number("latent_tokens", latent_tokens, low=1, integer=True)
        check_number("latent_dim", latent_dim, low=1, integer=True)
        check_number("beta", beta, low=0)
        check_number("latent_noise", latent_noise, low=0)
        check_number("token_sub_prob", token_sub_prob, low=0, high=1)
        check_bool("ae_token", ae_token)
        check_number("lora_rank", lora_rank, low=1, integer=True, optional=True)
        width = self.hidden_size
        self.latent_tokens, self.latent_dim = latent_tokens, latent_dim
        self.beta, self.latent_noise, self.token_sub_prob = beta, latent_noise, token_sub_prob
        self.lora_rank = lora_rank
        self.queries = nn.Parameter(torch.randn(latent_tokens, width) * scale)
        self.to_mean = nn.Linear(width, latent_dim)
        self.to_log_variance = nn.Linear(width, latent_dim)
        nn.init.zeros_(self.to_log_variance.weight)  # ours: every posterior begins with a std of exp(-1)
        nn.init.constant_(self.to_log_variance.bias, -2.0)
        self.expand = nn.Linear(latent_dim, width)  # W_dec
        nn.init.normal_(self.expand.weight, std=scale / latent_dim**0.5)
        nn.init.zeros_(self.expand.bias)
        self.ae_token = nn.Parameter(torch.randn(width) * scale) if ae_token else None
        self.shift: torch.Tensor
        self.spread: torch.Tensor
        self.register_buffer("shift", torch.zeros(latent_dim))
        self.register_buffer("spread", torch.ones(latent_dim))

    def prefix(self, z: torch.Tensor) -> torch.Tensor:
        """What the decoder reads before a text: raw latents [n, L_b, d_z] -> [n, L_b (+ 1), d]."""
        found = self.expand(z.to(self.expand.weight))
        if self.ae_token is None:
            return found
        return torch.cat([found, self.ae_token.expand(len(found), 1, -1)], dim=1)


class SentenceVAE(nn.Module):
    """A VAE over sentences. Latents that `encode` gives and `decode` takes are normalised (see `fit_normaliser`).

    Args:
        encoder: the tuned model; None: it only decodes.
        decoder: the pretrained model; it is frozen.
        tokenizer: of both, with an end token.
        parts: the rest.

    Attributes:
        decoder, tokenizer, parts: as given.
    """

    def __init__(self, encoder: TunedModel | None, decoder: Any, tokenizer: Any, parts: VaeParts) -> None:
        super().__init__()
        if tokenizer.eos_token_id is None:
            raise ValueError("the tokenizer has no end token, so sentences would not end: set tokenizer.eos_token.")
        decoder.requires_grad_(False)
        self.encoder, self.parts = encoder, parts
        self._frozen = (decoder,)  # in a tuple it is no child
        self.tokenizer = tokenizer

    @classmethod
    def from_pretrained(
        cls,
        base: str | Path | Engine,
        *,
        latent_tokens: int = 4,
        latent_dim: int = 512,
        beta: float = 1e-5,
        latent_noise: float = 3.0,
        token_sub_prob: float = 0.3,
        ae_token: bool = True,
        lora_rank: int | None = None,
    ) -> SentenceVAE:
        """An untrained VAE around a pretrained model.

        Args:
            base: an engine on transformers, or what `szilard.load` takes.
            latent_tokens: L_b, vectors per sentence.
            latent_dim: d_z, numbers per vector.
            beta: weight of the KL.
            latent_noise: k, std of the noise on z in training.
            token_sub_prob: p, share of the encoder's input tokens that training replaces.
            ae_token: whether a learned vector stands between prefix and text.
            lora_rank: the encoder learns by low-rank changes; None: all its weights do.

        Raises:
            ValueError: no such model, or a setting out of range.
        """
        engine = as_engine(base)
        decoder: Any = engine.model  # type: ignore[attr-defined]
        rows = decoder.get_input_embeddings().weight
        parts = VaeParts(
            describe(engine),
            latent_tokens,
            latent_dim,
            beta,
            latent_noise,
            token_sub_prob,
            ae_token,
            lora_rank,
            scale=embedding_size(decoder),
        )
        encoder = TunedModel(copy.deepcopy(decoder), lora_rank)
        return cls(encoder, decoder, engine.tokenizer, parts.to(rows.device))

    @classmethod
    def open(cls, folder: Path, engine: Engine, *, encoder: bool = True) -> SentenceVAE:
        """What `save` wrote.

        Args:
            folder: of the VAE.
            engine: the pretrained model, the decoder.
            encoder: whether sentences are to be encoded, too.

        Raises:
            ValueError: no VAE there, or another model.
        """
        parts = VaeParts.from_pretrained(folder)
        model: Any = engine.model  # type: ignore[attr-defined]
        parts.check_base(
            vocab_size=engine.vocab_size,
            hidden_size=model.get_input_embeddings().weight.shape[1],
            name=engine.name,
            fingerprint=weights_fingerprint(model),
        )
        tuned = None
        if encoder:
            tuned = TunedModel(copy.deepcopy(model), parts.lora_rank)
            tuned.load(folder / ENCODER)
        return cls(tuned, model, engine.tokenizer, parts.to(model.device))

    def save(self, folder: Path) -> None:
        """Write the parts and the encoder's changes; the decoder is the pretrained model as it is."""
        folder.mkdir(parents=True, exist_ok=True)
        self._encoder().save(folder / ENCODER)
        self.parts.save_pretrained(folder)

    @property
    def decoder(self) -> Any:
        """The frozen model."""
        return self._frozen[0]

    def _encoder(self) -> TunedModel:
        if self.encoder is None:
            raise ValueError("this VAE was opened to decode only: open it with encoder=True.")
        return self.encoder

    # ---- encoder ---------------------------------------------------------------------------------------------

    def posterior(self, ids: torch.Tensor, real: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """mu and log var of raw latents, [n, L_b, d_z] each.

        Args:
            ids: sentences, int64 [n, width], padded anywhere.
            real: where they are no padding, bool [n, width].
        """
        encoder, parts = self._encoder(), self.parts
        queries = parts.queries.to(encoder.model.dtype).expand(len(ids), -1, -1)
        inputs = torch.cat([encoder.embed(ids), queries], dim=1)
        real = torch.cat([real, real.new_ones(len(ids), parts.latent_tokens)], dim=1)
        seen, place = padded_causal(real)
        hidden = (
            encoder.model.get_decoder()(
                inputs_embeds=inputs,
                attention_mask=as_attention_mask(encoder.model, seen, place),
                position_ids=place,
                use_cache=False,
            )
            .last_hidden_state[:, -parts.latent_tokens :]
            .to(parts.queries)
        )
        return parts.to_mean(hidden), parts.to_log_variance(hidden)

    def tokens(self, texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Sentences as ids int64 [n, width], padded on the right, and where they are real, bool [n, width]."""
        rows = [self.tokenizer.encode(text, add_special_tokens=False) for text in texts]
        return pad_ids(rows, self.decoder.device)

    @torch.no_grad()
    def encode(self, texts: Sequence[str], sample: bool = False, *, batch_size: int = 64) -> torch.Tensor:
        """Sentences as normalised latents, float32 [n, L_b, d_z].

        Args:
            texts: the sentences.
            sample: draw from the posterior; no: its mean.
            batch_size: sentences at once.
        """
        mean, spread = self.encode_distribution(texts, batch_size=batch_size)
        return mean + spread * torch.randn_like(mean) if sample else mean

    @torch.no_grad()
    def encode_distribution(self, texts: Sequence[str], *, batch_size: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation of the normalised latents, float32 [n, L_b, d_z] each."""
        if not texts:
            empty = torch.zeros(0, self.parts.latent_tokens, self.parts.latent_dim, device=self.decoder.device)
            return empty, empty
        means, spreads = [], []
        for start in range(0, len(texts), batch_size):
            mean, log_variance = self.posterior(*self.tokens(texts[start : start + batch_size]))
            means.append((mean - self.parts.shift) / self.parts.spread)
            spreads.append((0.5 * log_variance).exp() / self.parts.spread)
        return torch.cat(means).float(), torch.cat(spreads).float()

    @torch.no_grad()
    def fit_normaliser(self, texts: Sequence[str], per: str = "all") -> None:
        """Set shift and scale so that the posterior means of these sentences have mean 0 and variance 1.

        Noise N(0, I) and its scale sigma_0 mean nothing beside latents of another size.

        Args:
            texts: sentences of the data that is thought about.
            per: "all": one scale for all dimensions, so that those which the decoder ignores stay small (default);
                "dimension": one for each.
        """
        check_choice("per", per, ("all", "dimension"))
        self.parts.shift.zero_()
        self.parts.spread.fill_(1.0)
        mean, _ = self.encode_distribution(texts)
        self.parts.shift.copy_(mean.mean((0, 1)))
        centred = mean - self.parts.shift
        spread = centred.pow(2).mean((0, 1) if per == "dimension" else (0, 1, 2)).sqrt()
        self.parts.spread.copy_(spread.clamp(min=1e-6).expand_as(self.parts.spread))

    # ---- decoder ---------------------------------------------------------------------------------------------

    def loss(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Of a batch of sentences {"ids" int64, "real" bool}, [n, width]: {"loss", "ce", "kl", "right"}.

        "right" is the share of tokens that are reconstructed, with the gold ones before them. Noise and replaced tokens
        are there in training mode only; in evaluation z is the mean.
        """
        ids, real, parts = batch["ids"], batch["real"], self.parts
        read = ids
        if self.training and parts.token_sub_prob > 0:
            replaced = torch.rand(ids.shape, device=ids.device) < parts.token_sub_prob
            read = torch.where(replaced, torch.randint_like(ids, parts.vocab_size), ids)
        mean, log_variance = self.posterior(read, real)
        z = mean
        if self.training:
            z = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
            z = z + parts.latent_noise * torch.randn_like(mean)
        logits, labels = self.reconstruction(z, ids, real)
        wanted = labels != IGNORED
        scores, labels = logits[wanted].float(), labels[wanted]
        cross_entropy = functional.cross_entropy(scores, labels)
        kl = kl_divergence(mean, log_variance)
        right = (scores.argmax(-1) == labels).float().mean()
        return {"loss": cross_entropy + parts.beta * kl, "ce": cross_entropy, "kl": kl, "right": right}

    def forward(self, ids: torch.Tensor, real: torch.Tensor) -> dict[str, torch.Tensor]:
        """`loss`, for the training loop."""
        return self.loss({"ids": ids, "real": real})

    def reconstruction(
        self, z: torch.Tensor, ids: torch.Tensor, real: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The decoder's logits [n, width + 1, vocab] of sentences and their ends behind raw latents, and the labels."""
        prefix = self.parts.prefix(z).to(self.decoder.dtype)
        embedded = self.decoder.get_input_embeddings()(ids)
        hidden = self.decoder.get_decoder()(
            inputs_embeds=torch.cat([prefix, embedded], dim=1), use_cache=False
        ).last_hidden_state[:, prefix.shape[1] - 1 :]  # padding is on the right, where no real token looks
        labels = torch.cat([torch.where(real, ids, IGNORED), ids.new_full((len(ids), 1), IGNORED)], dim=1)
        labels.scatter_(1, real.sum(1, keepdim=True), self.tokenizer.eos_token_id)
        return unembed(self.decoder, hidden), labels

    @torch.no_grad()
    def decode(self, z: torch.Tensor, *, max_new_tokens: int = 64, batch_size: int = 64) -> list[str]:
        """The likeliest text, token by token, of normalised latents [n, L_b, d_z]."""
        found: list[str] = []
        for part in z.split(batch_size) if len(z) else ():
            raw = part.to(self.parts.spread) * self.parts.spread + self.parts.shift
            prefix = self.parts.prefix(raw).to(self.decoder.dtype)
            made = self.decoder.generate(
                inputs_embeds=prefix,
                attention_mask=torch.ones(prefix.shape[:2], dtype=torch.long, device=prefix.device),
                max_new_tokens=max_new_tokens,
                do_sample=False,
                eos_token_id=self.tokenizer.eos_token_id,
                pad_token_id=self.tokenizer.eos_token_id,
            )
            found += [text.strip() for text in self.tokenizer.batch_decode(made, skip_special_tokens=True)]
        return found


def kl_divergence(mean: torch.Tensor, log_variance: torch.Tensor) -> torch.Tensor:
    """-1/2 mean(1 + log var - mu^2 - exp(log var)) over all entries: a scalar, 0 for a standard normal."""
    return -0.5 * (1 + log_variance - mean.pow(2) - log_variance.exp()).mean()


def as_engine(base: Any) -> Engine:
    """An engine on transformers.

    Raises:
        ValueError: another kind of engine, or no such model.
    """
    engine = base if isinstance(base, Engine) else load(base, engine="transformers", device=None)
    if engine.kind != "transformers":
        raise ValueError(f"LaDiR trains a model of transformers, and {engine.name} runs on {engine.kind}.")
    return engine


def describe(engine: Engine) -> dict[str, Any]:
    """What an add-on remembers of its model."""
    model: Any = engine.model  # type: ignore[attr-defined]
    return {
        "name": engine.name,
        "source": str(getattr(model, "name_or_path", "") or engine.name),
        "fingerprint": weights_fingerprint(model),
        "hidden_size": int(model.config.get_text_config().hidden_size),
        "vocab_size": engine.vocab_size,
    }


@torch.no_grad()
def embedding_size(model: Any) -> float:
    """Root mean square of the numbers that a model's embedding layer gives."""
    layer = model.get_input_embeddings()
    rows = torch.arange(min(1024, layer.weight.shape[0]), device=layer.weight.device)
    return float(layer(rows).float().pow(2).mean().sqrt())


def pad_ids(rows: Sequence[Sequence[int]], device: torch.device | str = "cpu") -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of ids as int64 [n, width], padded on the right, and where they are real, bool [n, width]."""
    width = max([1, *map(len, rows)])
    ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], device=device)
    lengths = torch.tensor([len(row) for row in rows], device=device)
    return ids, torch.arange(width, device=device) < lengths[:, None]
