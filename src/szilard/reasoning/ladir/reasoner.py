"""LaDiR's reasoner: a language model that denoises the next block of thought, and then answers in words.

Kang, Zhang, Kuang, Majamaki, Jaitly, Ma, Qin 2025, "LaDiR: Latent Diffusion Enhances LLMs for Text Reasoning", arXiv
2510.04573.

    L = lambda_FM L_FM + lambda_Ans L_Ans + lambda_Spec L_Spec

L_FM: flow matching of every block, see `flow.py`. L_Ans: cross-entropy of the answer behind question and blocks.
L_Spec: at every <EOT>, whether another block or the answer follows; the answer, only behind the last block.

Stage 1 (teacher forcing): blocks are the VAE's encodings of the gold sentences. Stage 2 (rollout): the model makes as
many blocks as the gold chain has, from noise in few steps, with gradients through the denoising; L_Ans and L_Spec are
taken behind them, and L_FM has them as context and the gold latents as target, which keeps the latents from collapsing.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from szilard.engines.engine import Engine
from szilard.engines.model_parts import unembed
from szilard.options import check_number
from szilard.reasoning.ladir.contexts import GraphContext
from szilard.reasoning.ladir.diversity import DiversityGuidance
from szilard.reasoning.ladir.flow import flow_interpolate, wanted
from szilard.reasoning.ladir.generation import LadirOutput, generate
from szilard.reasoning.ladir.mask import as_attention_mask, visible
from szilard.reasoning.ladir.packing import IGNORED
from szilard.reasoning.ladir.parts import LadirParts
from szilard.reasoning.ladir.thinking import Thinking, denoise
from szilard.reasoning.ladir.tuned import TunedModel
from szilard.reasoning.ladir.vae import SentenceVAE, as_engine, describe, embedding_size
from szilard.training.loop import Batch


class LaDiRReasoner(nn.Module):
    """A tuned language model and the parts that make it denoise.

    Args:
        tuned: the model.
        parts: the rest.
        tokenizer: of the model.
        vae: the VAE of its latents; None: thoughts are not decoded.
        lambdas: weights of L_FM, L_Ans and L_Spec.
        cond_dropout: share of the examples whose question is replaced by the null vector (all but its first token);
            their answers and ends are not learned from (inferred).
        sample_latents: whether targets are drawn from the VAE's posterior; no: they are its mean, as in the released
            code.
    """

    def __init__(
        self,
        tuned: TunedModel,
        parts: LadirParts,
        tokenizer: Any,
        vae: SentenceVAE | None = None,
        *,
        lambdas: Sequence[float] = (5.0, 1.0, 1.0),
        cond_dropout: float = 0.1,
        sample_latents: bool = False,
    ) -> None:
        super().__init__()
        if len(lambdas) != 3:
            raise ValueError(f"lambdas are three weights (flow matching, answer, special), not {lambdas!r}.")
        for value in lambdas:
            check_number("lambdas", value, low=0)
        check_number("cond_dropout", cond_dropout, low=0, high=1)
        self.tuned, self.parts = tuned, parts
        self._beside = (tokenizer, vae)  # in a tuple the VAE is no child
        self.lambdas, self.cond_dropout = tuple(map(float, lambdas)), cond_dropout
        self.sample_latents = sample_latents

    @classmethod
    def from_pretrained(
        cls,
        base: str | Path | Engine,
        *,
        vae: SentenceVAE,
        objective: str = "flow",
        lambdas: Sequence[float] = (5.0, 1.0, 1.0),
        cond_dropout: float = 0.1,
        span: str = "block",
        lora_rank: int | None = None,
        sample_latents: bool = False,
    ) -> LaDiRReasoner:
        """An untrained reasoner around a copy of a pretrained model.

        Args:
            base: an engine on transformers, or what `szilard.load` takes.
            vae: trained, of the same model.
            objective: what is predicted: "flow", "x0", "eps" or "v".
            lambdas, cond_dropout, sample_latents: see the class.
            span: where attention is full: "block" or "latents".
            lora_rank: the model learns by low-rank changes; None: all its weights do.

        Raises:
            ValueError: no such model, or a setting out of range.
        """
        engine = as_engine(base)
        model = copy.deepcopy(engine.model)  # type: ignore[attr-defined]
        shape = vae.parts.latent_tokens, vae.parts.latent_dim
        parts = LadirParts(describe(engine), *shape, objective, span, scale=embedding_size(model))
        return cls(
            TunedModel(model, lora_rank),
            parts.to(model.device),
            engine.tokenizer,
            vae,
            lambdas=lambdas,
            cond_dropout=cond_dropout,
            sample_latents=sample_latents,
        )

    @torch.no_grad()
    def read_as_decoder(self) -> None:
        """Have W_in begin as the VAE's W_dec (inferred: the paper does not tell how W_in begins).

        The decoder is the model that this one begins as, so it reads such vectors already.
        """
        if self.vae is None:
            raise ValueError("W_in can begin as W_dec only beside a VAE.")
        own, theirs = self.parts.project, self.vae.parts
        own.weight.copy_(theirs.expand.weight * theirs.spread)
        own.bias.copy_(theirs.expand.bias + theirs.expand.weight @ theirs.shift)

    @property
    def model(self) -> Any:
        """The language model."""
        return self.tuned.model

    @property
    def tokenizer(self) -> Any:
        """Of the model."""
        return self._beside[0]

    @property
    def vae(self) -> SentenceVAE | None:
        """The VAE of its latents."""
        return self._beside[1]

    # ---- training --------------------------------------------------------------------------------------------

    def stage1_loss(self, batch: Batch) -> dict[str, torch.Tensor]:
        """With the gold blocks as context; see `packing.packer` for the batch.

        Returns:
            {"loss", "flow", "answer", "special", "right"}; "right": share of the answers' tokens.
        """
        gold = self._gold(batch)
        return self._losses(batch, gold, gold)

    def stage2_loss(
        self,
        batch: Batch,
        rollout_steps: int = 10,
        *,
        initial_noise: float = 1.0,
        checkpointing: bool = False,
    ) -> dict[str, torch.Tensor]:
        """With the blocks that the model itself makes as context, as many as the gold chain has.

        Args:
            batch: see `packing.packer`.
            rollout_steps: denoising steps per block.
            initial_noise: sigma_0 of the rollout.
            checkpointing: compute every step again for its gradients: less memory, more time.
        """
        made = self.rollout(batch, rollout_steps, initial_noise=initial_noise, checkpointing=checkpointing)
        gold = self._gold(batch)
        outputs = self._losses(batch, made, gold)
        real = batch["real_blocks"]
        apart = (made.detach() - gold).pow(2).mean((2, 3))
        return outputs | {"apart": (apart * real).sum() / real.sum().clamp(min=1)}

    def rollout(
        self, batch: Batch, num_steps: int, *, initial_noise: float = 1.0, checkpointing: bool = False
    ) -> torch.Tensor:
        """Blocks that the model makes, [batch, B, L_b, d_z], with gradients; arguments as `stage2_loss`."""
        lengths = batch["question_lengths"]
        asked = batch["tokens"][:, : int(lengths.max())]
        real = torch.arange(asked.shape[1], device=asked.device) < lengths[:, None]
        context = GraphContext(self.model, self.tuned.embed(asked), real)
        how = Thinking(num_steps=num_steps)
        everyone = torch.ones_like(lengths, dtype=torch.bool)
        blocks = []
        for _ in range(batch["mean"].shape[1]):
            noise = initial_noise * torch.randn_like(batch["mean"][:, 0])
            now = copy.copy(context)  # steps that are computed again must not find later blocks in it
            z, _, _ = denoise(self.parts, now, noise, how, checkpointed=checkpointing)
            context.keep(self.parts.finished(z), self.parts.seen(timestep=False), everyone)
            blocks.append(z)
        return torch.stack(blocks, dim=1)

    def _gold(self, batch: Batch) -> torch.Tensor:
        mean: torch.Tensor = batch["mean"]
        return mean + batch["spread"] * torch.randn_like(mean) if self.sample_latents else mean

    def _losses(self, batch: Batch, context: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
        """L and its parts, with `context` in the text and `target` to be denoised, [batch, B, L_b, d_z] each."""
        rows, draws, blocks, _ = batch["noisy"].shape
        real: torch.Tensor = batch["real_blocks"]
        t = torch.rand(rows, draws, blocks, device=target.device)
        gold = target[:, None].expand(-1, draws, -1, -1, -1)  # [batch, R, B, L_b, d_z]
        eps = torch.randn_like(gold)
        time = self.parts.time(t)  # [batch, R, B, d]
        dropped = torch.rand(rows, device=target.device) < (self.cond_dropout if self.training else 0.0)
        hidden = self._hidden(batch, context, flow_interpolate(gold, eps, t), time, dropped)

        said = self.parts.head(_at(hidden, batch["noisy"]), time)
        each = (said - wanted(self.parts.objective, gold, eps, t)).pow(2).mean((3, 4))  # [batch, R, B]
        flow = (each * real[:, None]).sum() / (real.sum() * draws).clamp(min=1)

        labels = torch.where(dropped[:, None], IGNORED, batch["labels"])
        learned = labels != IGNORED
        scores = unembed(self.model, hidden[learned]).float()
        count = learned.sum().clamp(min=1)  # a batch in which every question was dropped has no answers
        answer = functional.cross_entropy(scores, labels[learned], reduction="sum") / count
        right = (scores.detach().argmax(-1) == labels[learned]).sum() / count

        last = torch.arange(blocks, device=real.device) == real.sum(1, keepdim=True) - 1
        said_next = self.parts.special(_at(hidden, batch["ends"]).to(self.parts.special.weight))
        counted = real & ~dropped[:, None]
        each = functional.cross_entropy(said_next.flatten(0, 1), last.long().flatten(), reduction="none")
        special = (each * counted.flatten()).sum() / counted.sum().clamp(min=1)

        for_flow, for_answer, for_special = self.lambdas
        loss = for_flow * flow + for_answer * answer + for_special * special
        return {"loss": loss, "flow": flow, "answer": answer, "special": special, "right": right}

    def answer_logits(self, batch: Batch) -> torch.Tensor:
        """Logits of all slots behind the question and the gold blocks, [batch, S, vocab]."""
        gold = batch["mean"]
        shape = batch["noisy"].shape
        noisy = torch.zeros(*shape, gold.shape[-1], device=gold.device)
        time = self.parts.time(torch.ones(shape[:-1], device=gold.device))
        nobody = torch.zeros(len(gold), dtype=torch.bool, device=gold.device)
        return unembed(self.model, self._hidden(batch, gold, noisy, time, nobody))

    def _hidden(
        self,
        batch: Batch,
        context: torch.Tensor,
        noisy: torch.Tensor,
        time: torch.Tensor,
        dropped: torch.Tensor,
    ) -> torch.Tensor:
        """Hidden states of all slots, [batch, S, d]."""
        parts, rows = self.parts, len(context)
        tokens = self.tuned.embed(batch["tokens"])
        place = torch.arange(tokens.shape[1], device=tokens.device)
        replaced = dropped[:, None] & (place > 0) & (place < batch["question_lengths"][:, None])
        tokens = torch.where(replaced[..., None], parts.null.to(tokens), tokens)
        bank = torch.cat(
            [
                tokens.to(parts.null),
                parts.delimiters.expand(rows, -1, -1),
                parts.project(context.to(parts.null)).flatten(1, 2),
                parts.project(noisy.to(parts.null)).flatten(1, 3),
                time.flatten(1, 2),
            ],
            dim=1,
        )
        seen = visible(batch["path"], batch["place"], batch["span"], batch["start"])
        return self.model.get_decoder()(
            inputs_embeds=_at(bank, batch["source"]).to(self.model.dtype),
            attention_mask=as_attention_mask(self.model, seen, batch["place"]),
            position_ids=batch["place"],
            use_cache=False,
        ).last_hidden_state

    # ---- inference -------------------------------------------------------------------------------------------

    @torch.no_grad()
    def generate(
        self,
        question_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        *,
        num_trajectories: int = 1,
        num_steps: int = 50,
        max_blocks: int = 16,
        initial_noise: float = 2.0,
        cfg_scale: float = 1.0,
        diversity: DiversityGuidance | None = None,
        tolerance: float | None = None,
        generator: torch.Generator | None = None,
        noise: torch.Tensor | None = None,
        decode_thoughts: bool = False,
        **answer_generate_kwargs: Any,
    ) -> LadirOutput:
        """Think about questions and answer them; see `generation.generate`."""
        how = Thinking(num_steps, max_blocks, initial_noise, cfg_scale, diversity, tolerance)
        return generate(
            self.model,
            self.parts,
            self.tokenizer,
            question_ids,
            attention_mask,
            how,
            num_trajectories=num_trajectories,
            generator=generator,
            noise=noise,
            vae=self.vae if decode_thoughts else None,
            **answer_generate_kwargs,
        )


def _at(rows: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Vectors at places: [batch, n, d] and int64 [batch, ...] -> [batch, ..., d]."""
    flat = index.flatten(1)[..., None].expand(-1, -1, rows.shape[-1])
    return rows.gather(1, flat).view(*index.shape, rows.shape[-1])
