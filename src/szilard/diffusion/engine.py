"""The engine of masked diffusion LMs: a canvas is filled in rounds, where others write from left to right."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from szilard.decoding.method import Method
from szilard.decoding.recorder import TraceRecorder, token_pieces
from szilard.decoding.sampling import Sampling
from szilard.decoding.stopping import InNewText, StopWhen
from szilard.diffusion.canvas_model import MaskedDiffusionConfig, TransformersCanvas
from szilard.diffusion.fill import fill
from szilard.diffusion.state import DenoisingState
from szilard.diffusion.unmask import TopKUnmask
from szilard.engines.model_use import running_on
from szilard.engines.prompts import Prompt
from szilard.engines.streaming import streamed
from szilard.engines.transformers_engine import TransformersEngine

MASK = "[MASK]"  # how a template given as text names an open place, whatever the tokenizer calls it
_OPTIONS = frozenset({"do_sample", "temperature", "top_k", "top_p", "min_p", "typical_p"})


@dataclass(frozen=True)
class Canvas:
    """An answer in the middle of being filled.

    Attributes:
        round: rounds so far.
        tokens: ids, the mask's where it is open.
        committed: places that this round filled.
        text: open places as "░".
    """

    round: int
    tokens: list[int]
    committed: list[int]
    text: str

    def __str__(self) -> str:
        return self.text


class DiffusionEngine(TransformersEngine):
    """Wraps a stock decoder of transformers that was trained as a masked diffusion LM.

    Args:
        model: a `PreTrainedModel`; it reads in both directions from now on.
        tokenizer: its tokenizer.
        config: its mask and its ends.
        name: what to call it in tables.
    """

    kind = "diffusion"

    def __init__(self, model: Any, tokenizer: Any, config: MaskedDiffusionConfig, *, name: str | None = None) -> None:
        super().__init__(model, tokenizer, name=name)
        self.canvas_model = TransformersCanvas(self.model, config)
        self.config = config
        self.provides = frozenset({"denoising"})

    def stream(self, prompt: Prompt, method: Any = None, **options: Any) -> Iterator[Any]:
        """Fill a canvas for one prompt and yield it after every round; closing the iterator stops the run.

        The arguments are `generate`'s. When the iterator is exhausted its value (`StopIteration.value`) is the
        `Result`.
        """
        rounds: queue.Queue[Canvas | None] = queue.Queue()
        return streamed(self, prompt, method, options, SimpleNamespace(canvas=rounds.put), rounds)

    # ---- what an engine implements ---------------------------------------------------------------------------

    def plain_method(self, do_sample: bool) -> Method:
        return TopKUnmask()

    def _generation_config(self, max_new_tokens: int, options: dict[str, Any]) -> GenerationConfig:
        for name in options:
            if name not in _OPTIONS and getattr(GenerationConfig(), name, None) != options[name]:
                raise ValueError(
                    f"{name} works on a text that grows from left to right; a canvas is filled with "
                    f"{', '.join(sorted(_OPTIONS))} and the method's own options."
                )
        return super()._generation_config(max_new_tokens, options)

    def stop_criterion(self, texts: tuple[str, ...]) -> Any:
        return _InText(texts, lambda ids: self.tokenizer.decode(ids, skip_special_tokens=True))

    def _encode_template(self, template: Any, prompts: Sequence[Prompt], single: bool) -> dict[str, Any]:
        """The answers' ids with their open places, under "template"."""
        given = [template] if single or isinstance(template, str) else list(template)
        if isinstance(template, str) and not single:
            given = [template] * len(prompts)
        if len(given) != len(prompts):
            raise ValueError(f"there are {len(given)} templates for {len(prompts)} prompts: give one per prompt.")
        return {"template": [self._template_ids(one) for one in given]}

    def _template_ids(self, template: Any) -> list[int]:
        mask = self.config.mask_token_id
        if isinstance(template, str):
            parts = [self._encode_marker(part) for part in template.split(MASK)]
            ids = parts[0] + [token for part in parts[1:] for token in (mask, *part)]
        else:
            ids = template.tolist() if isinstance(template, torch.Tensor) else list(template)
        if bad := [token for token in ids if not isinstance(token, int) or not 0 <= token < self.vocab_size]:
            raise ValueError(f"{bad[0]!r} in the template is no token id of {self.name} (0..{self.vocab_size - 1}).")
        if mask not in ids:
            raise ValueError(f"the template leaves nothing to fill: write {MASK} for every open token.")
        return ids

    def _run(
        self,
        method: Any,
        inputs: dict[str, Any],
        config: GenerationConfig,
        *,
        logits_processor: LogitsProcessorList,
        stopping_criteria: StoppingCriteriaList,
        streamer: Any,
        recorder: TraceRecorder | None,
        generator: torch.Generator | None,
    ) -> Any:
        if not callable(getattr(method, "decode", None)):
            raise ValueError(f"{self.name} fills a canvas; it has no state that decodes from left to right.")
        if logits_processor:
            raise ValueError("logits processors read a text from left to right; a canvas has none: leave them out.")
        stop, given_up = _ends(stopping_criteria)
        template = inputs.pop("template", None)
        device = self.model.device
        sampled = bool(config.do_sample)
        filters = {name: getattr(config, name, None) for name in ("top_k", "top_p", "min_p", "typical_p")}
        warpers = Sampling(**{name: value for name, value in filters.items() if value is not None}).warpers()
        shown = getattr(streamer, "canvas", None)

        def watch(state: DenoisingState) -> None:
            if given_up is not None and given_up.event.is_set():
                raise GivenUp
            if shown is not None:
                shown(self._canvas(state))

        with running_on(self.model):
            state = fill(
                self.canvas_model,
                inputs["input_ids"].to(device),
                method,
                length=config.max_new_tokens,
                answers=template,
                real=inputs["attention_mask"].to(device),
                temperature=(config.temperature if config.temperature is not None else 1.0) if sampled else 0.0,
                warpers=warpers if sampled else None,
                recorder=recorder,
                generator=generator,
                watch=watch if shown is not None or given_up is not None else None,
                stop=stop,
            )
        state.stopping_criteria = [SimpleNamespace(eos_token_id=list(self.config.ends))]
        if streamer is not None and shown is None:
            streamer.put(inputs["input_ids"].cpu())
            for token in state.generated_tokens()[0]:
                streamer.put(torch.tensor([token]))
            streamer.end()
        return state

    def _canvas(self, state: DenoisingState) -> Canvas:
        """The first row as it stands."""
        tokens = state.canvas(0)
        round_ = int(state.rounds[0])
        filled = state.round_of[0, state.prompt_width :][: len(tokens)]
        text = "".join(
            "░" if token == self.config.mask_token_id else piece
            for token, piece in zip(tokens, self._pieces(tokens), strict=True)
        )
        return Canvas(round_, tokens, (filled == round_).nonzero()[:, 0].tolist(), text)

    def _pieces(self, tokens: list[int]) -> list[str]:
        """What every token adds to the text."""
        return token_pieces(tokens, lambda ids: self.tokenizer.decode(ids, skip_special_tokens=False))


class _InText(StoppingCriteria):
    """Rows whose text holds one of these texts."""

    def __init__(self, texts: tuple[str, ...], decode: Callable[[list[int]], str]) -> None:
        self.texts, self.decode = texts, decode

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:  # type: ignore[override]
        written = [self.decode(ids) for ids in input_ids.tolist()]
        return torch.tensor([any(text in one for text in self.texts) for one in written])


class GivenUp(Exception):
    """Nobody waits for the canvas any more (`StopWhen`)."""


def _ends(criteria: StoppingCriteriaList) -> tuple[Callable[[torch.Tensor], bool] | None, StopWhen | None]:
    """What ends an answer, and what ends the run, of a run's stopping criteria.

    Raises:
        ValueError: a criterion that reads a growing text.
    """
    stop, given_up = None, None
    for criterion in criteria:
        if isinstance(criterion, InNewText):
            inner = criterion.criterion
            stop = lambda ids, inner=inner: bool(inner(ids[None], None)[0])  # noqa: E731
        elif isinstance(criterion, StopWhen):
            given_up = criterion
        else:
            raise ValueError(
                "stopping criteria read a text from left to right; a canvas has none: use stop texts, or the method's "
                "end_of_text."
            )
    return stop, given_up
