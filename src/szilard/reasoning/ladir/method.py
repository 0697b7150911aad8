"""LaDiR as a decoding method: blocks of latent thought are denoised behind the prompt, then the answer is written.

Kang, Zhang, Kuang, Majamaki, Jaitly, Ma, Qin 2025, "LaDiR: Latent Diffusion Enhances LLMs for Text Reasoning", arXiv
2510.04573; see `thinking.py` for the loop. Rows with the same prompt are trajectories of one question: diversity
guidance acts between them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from szilard.decoding.method import Method, row_streams
from szilard.decoding.state import DecodingState
from szilard.engines.model_parts import weights_fingerprint
from szilard.options import check_bool, check_number
from szilard.reasoning.ladir.checkpoint import open_parts, open_vae
from szilard.reasoning.ladir.diversity import DiversityGuidance
from szilard.reasoning.ladir.generation import answer_on, think_on, thought_texts
from szilard.reasoning.ladir.parts import LadirParts
from szilard.reasoning.ladir.thinking import Thinking, Thoughts
from szilard.reasoning.ladir.vae import SentenceVAE

if TYPE_CHECKING:
    from szilard.engines.engine import Engine


@dataclass(frozen=True)
class LaDiR(Method):
    """Answers after latent blocks, on a model that `szilard train ladir` tuned.

    The first record of a row's trace tells its "blocks", their "denoising_steps", and, block after block with " | "
    between, their "thought_norms" (root mean square; about 1 is usual) and "thoughts" (decoded by the VAE).

    Attributes:
        checkpoint: folder or hub repository of the trained reasoner; None: the engine's model is it.
        num_steps: T, denoising steps per block.
        max_blocks: most blocks before the answer; 0: plain decoding.
        initial_noise: sigma_0, std of the noise that a block begins as.
        cfg_scale: w of classifier-free guidance; 1: none.
        gamma_max: strength of the diversity guidance between rows with the same prompt; 0: none. The paper's best are
            0.3 to 0.5.
        bandwidth: of the guidance: "median" distance (which needs three rows or more), or a number.
        guidance_sign: "repulsive", or "official": the released code's, which pulls near rows together.
        schedule: of gamma_t: "linear", or "official".
        tolerance: a row stops denoising a block when its predicted clean block moves by no more than this share in a
            step (ours); None: all steps.
        decode_thoughts: whether the trace shows the sentences, for which the pretrained model is loaded, too.
        seed: of the noise. A prompt draws alike in every batch; equal prompts in one batch draw otherwise.
    """

    slug: ClassVar[str] = "ladir"
    family: ClassVar[str] = "reasoning"
    paper: ClassVar[str] = "Kang et al. 2025, arXiv 2510.04573"
    needs: ClassVar[frozenset[str]] = frozenset({"logits", "embeddings_in", "hidden_states", "rewind"})

    checkpoint: str | None = None
    num_steps: int = 50
    max_blocks: int = 16
    initial_noise: float = 2.0
    cfg_scale: float = 1.0
    gamma_max: float = 0.0
    bandwidth: float | str = "median"
    guidance_sign: str = "repulsive"
    schedule: str = "linear"
    tolerance: float | None = None
    decode_thoughts: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.checkpoint, Path):
            object.__setattr__(self, "checkpoint", str(self.checkpoint))
        if self.checkpoint is not None and not isinstance(self.checkpoint, str):
            raise TypeError(f"checkpoint must be a folder or hub id, or None, not {self.checkpoint!r}.")
        self._thinking()  # checks its numbers
        check_bool("decode_thoughts", self.decode_thoughts)
        check_number("seed", self.seed, low=0, high=2**31 - 1, integer=True)

    @classmethod
    def neutral(cls) -> LaDiR:
        """No thoughts: greedy decoding by the model as it is."""
        return cls(max_blocks=0)

    def _thinking(self) -> Thinking:
        diversity = DiversityGuidance(self.gamma_max, self.bandwidth, self.guidance_sign, self.schedule)
        return Thinking(
            self.num_steps,
            self.max_blocks,
            self.initial_noise,
            self.cfg_scale,
            diversity if self.gamma_max > 0 else None,
            self.tolerance,
        )

    def check(self, engine: Engine | None = None) -> None:
        """Refuse a model without its parts, and parts of another model."""
        if self.max_blocks and engine is not None:
            if engine.kind != "transformers":
                raise ValueError(f"ladir needs hidden states, which {engine.name} on {engine.kind} does not give.")
            self._parts(engine.model, engine.name)  # type: ignore[attr-defined]

    def _where(self, model: Any) -> str:
        return self.checkpoint or str(getattr(model, "name_or_path", "") or "")

    def _parts(self, model: Any, name: str) -> LadirParts:
        where = self._where(model)
        if not where:
            raise ValueError(
                "ladir needs a model tuned for it: szilard.load(folder) of what `szilard train ladir --model ... "
                "--data ... -o folder` made, or checkpoint='folder'."
            )
        parts = open_parts(where)
        parts.check_base(
            vocab_size=int(model.config.get_text_config().vocab_size),
            hidden_size=model.get_input_embeddings().weight.shape[1],
            name=name,
            fingerprint=weights_fingerprint(model),
        )
        return parts

    def decode(self, state: DecodingState) -> None:
        """Think behind the prompt, then answer."""
        if self.max_blocks == 0:
            answer_on(state, state.prefill())
            return
        model: Any = state.model  # type: ignore[attr-defined]
        parts = self._parts(model, state.model_name).to(state.device)
        shown = state.trace is not None and self.decode_thoughts
        vae = open_vae(self._where(model), device=str(model.device)) if shown else None  # before any work
        streams = row_streams(self.seed, state)
        shape = (parts.latent_tokens, parts.latent_dim)

        def noise() -> torch.Tensor:
            return torch.stack([torch.randn(shape, generator=stream) for stream in streams]).to(parts.null)

        thoughts, logits = think_on(state, parts, self._thinking(), noise, same_prompts(state))
        answer_on(state, logits, **({} if state.trace is None else _shown(thoughts, vae)))


def _shown(thoughts: Thoughts, vae: SentenceVAE | None) -> dict[str, Any]:
    """What the trace tells of the thoughts, a value per row."""
    counts = thoughts.counts.tolist()
    norms = thoughts.blocks.float().pow(2).mean((2, 3)).sqrt().tolist()
    shown: dict[str, Any] = {
        "blocks": thoughts.counts,
        "denoising_steps": thoughts.steps.sum(1),
        "thought_norms": [
            " | ".join(f"{norm:.2f}" for norm in row[:count]) for row, count in zip(norms, counts, strict=True)
        ],
    }
    if vae is not None:
        own = [row[:count] for row, count in zip(thoughts.blocks, counts, strict=True)]
        shown["thoughts"] = [" | ".join(texts) for texts in thought_texts(vae, own)]
    return shown


def same_prompts(state: DecodingState) -> torch.Tensor:
    """Rows with equal prompts have equal numbers, int64 [batch]; prompts that came as embeddings are all different."""
    if state.prompt_width == 0:
        return torch.arange(state.batch_size, device=state.device)
    prompts = torch.where(state.prompt_mask.bool(), state.tokens[:, : state.prompt_width], -1)
    return prompts.unique(dim=0, return_inverse=True)[1]
