"""What every decoding method is: a frozen dataclass of hyperparameters and one loop on the decoding state."""

from __future__ import annotations

import collections
import collections.abc
import hashlib
import typing
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from szilard.decoding.state import DecodingState
from szilard.options import Options

if typing.TYPE_CHECKING:
    from szilard.engines.engine import Engine

Shaping: typing.TypeAlias = collections.abc.Callable[
    [collections.abc.Sequence[collections.abc.Sequence[int]], torch.Tensor], torch.Tensor
]


@dataclass(frozen=True)
class Method(Options, ABC):
    """One published technique. Subclasses are frozen dataclasses and implement `decode` and `neutral`.

    An instance is a valid `custom_generate` callable of transformers, and a valid `method` of `Engine.generate`.
    """

    slug: ClassVar[str]
    family: ClassVar[str] = "decoding"
    paper: ClassVar[str]
    needs: ClassVar[frozenset[str]] = frozenset({"logits"})
    honours_do_sample: ClassVar[bool] = True  # False: the method itself fixes whether tokens are drawn
    changes_model: ClassVar[bool] = False  # True: while it runs the model gives other values to whoever else runs it

    @classmethod
    @abstractmethod
    def neutral(cls) -> Method:
        """The setting in which the method is plain decoding, token for token."""

    @abstractmethod
    def decode(self, state: DecodingState) -> None:
        """Generate until `state.done`. Hyperparameters are in `self`, everything that changes is in `state`."""

    def check(self, engine: Engine | None = None) -> None:
        """Refuse, before any work, a setting that lacks what it needs to run.

        Args:
            engine: on which it is to run; None: look only at what needs no model.

        Raises:
            ValueError: a file, a model or a number is missing, or does not fit the engine.
        """

    def with_assistant(self, model: Any) -> Method:
        """The method as it runs in `generate(..., assistant_model=model)`; most have no use for a second model."""
        return self

    def shaping(self, state: DecodingState) -> Shaping | None:
        """How the method changes the next-token logits of *given* text; None: it acts only while it writes.

        Returns:
            A function of the token ids so far (one list per row) and the raw logits [rows, vocab] that gives the
            shaped logits [rows, vocab].
        """
        return None

    def __call__(
        self,
        model: Any,
        input_ids: torch.Tensor,
        logits_processor: Any = None,
        stopping_criteria: Any = None,
        generation_config: Any = None,
        synced_gpus: bool = False,
        streamer: Any = None,
        **model_kwargs: Any,
    ) -> Any:
        """The signature of `GenerationMixin._sample`, so that `model.generate(custom_generate=method)` works.

        Returns:
            int64 [batch, length], or with `return_dict_in_generate` a `GenerateDecoderOnlyOutput` that also carries
            `trace` and `cost`.
        """
        from szilard.engines.transformers_generate import run_inside_generate

        return run_inside_generate(
            self,
            model,
            input_ids,
            logits_processor,
            stopping_criteria,
            generation_config,
            synced_gpus,
            streamer,
            model_kwargs,
        )


def row_streams(seed: int, state: DecodingState) -> list[torch.Generator]:
    """A random stream per row, for controls that decide at random.

    A row's stream depends on the seed and its prompt: a prompt draws alike in every batch, and others draw otherwise;
    equal prompts in one batch, and prompts that came as embeddings, have a stream by their place.
    """
    streams = []
    seen: collections.Counter[bytes] = collections.Counter()
    for ids, mask in zip(state.tokens[:, : state.prompt_width], state.prompt_mask.bool(), strict=True):
        prompt = ids[mask].cpu().numpy().tobytes() if len(ids) else b""  # it came as embeddings
        key = hashlib.sha256(f"{seed} {seen[prompt]} ".encode() + prompt).digest()
        streams.append(torch.Generator().manual_seed(int.from_bytes(key[:8], "little") >> 1))
        seen[prompt] += 1
    return streams
