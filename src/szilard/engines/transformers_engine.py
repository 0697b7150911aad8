"""The PyTorch engine: any decoder-only model of transformers, and image-text models."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedModel, StoppingCriteriaList

from szilard.decoding.recorder import TraceRecorder
from szilard.decoding.state import DecodingState
from szilard.engines.engine import Engine
from szilard.engines.model_parts import weights_fingerprint
from szilard.engines.prompts import Prompt, as_chat
from szilard.engines.transformers_generate import decode, open_state, provided_by, visual_names


class TransformersEngine(Engine):
    """Wraps a loaded model and its tokenizer or processor; `szilard.load` builds one from a name.

    Args:
        model: a `PreTrainedModel` that can generate.
        tokenizer: its tokenizer.
        processor: the processor of an image-text model (it holds the tokenizer), or None.
        name: what to call it in tables.
        compile: run the steps behind the prompt as compiled graphs (see `szilard.load`).
    """

    kind = "transformers"

    def __init__(
        self,
        model: PreTrainedModel | Any,
        tokenizer: Any = None,
        *,
        processor: Any = None,
        name: str | None = None,
        compile: bool = False,
    ) -> None:
        if tokenizer is None and processor is None:
            raise ValueError("an engine needs the model's tokenizer (or processor).")
        self.model = model.eval()
        self.processor = processor
        self.tokenizer = tokenizer if tokenizer is not None else processor.tokenizer
        self.name = name or model.name_or_path or type(model).__name__
        self.provides = provided_by(model)
        self.device = model.device
        self.compiled = None
        if compile:
            from szilard.engines.compiled_step import CompiledStep

            self.compiled = CompiledStep(self.model)

    @property
    def context_window(self) -> int | None:
        window = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        return int(window) if window else None

    @property
    def vocab_size(self) -> int:
        return int(self.model.config.get_text_config().vocab_size)

    @cached_property
    def fingerprint(self) -> str:
        return weights_fingerprint(self.model)

    @cached_property
    def parameter_count(self) -> int:
        total = sum(parameter.numel() for parameter in self.model.parameters())
        inputs, outputs = self.model.get_input_embeddings(), self.model.get_output_embeddings()
        if outputs is not None and self.model.config.get_text_config().tie_word_embeddings:
            total -= outputs.weight.numel() if outputs.weight is not inputs.weight else 0  # quantised apart
        return total

    @property
    def has_chat_template(self) -> bool:
        return bool(getattr(self.processor, "chat_template", None)) or super().has_chat_template

    def encode(
        self, prompts: Sequence[Prompt], *, images: list[list[Any]] | None = None, raw: bool = False
    ) -> dict[str, Any]:
        if not any(images or []):
            return self._encode_text(prompts, raw)
        if "vision" not in self.provides or self.processor is None:
            raise ValueError(f"{self.name} is a text model and cannot take images; use an image-text model.")
        chats = [_with_images(prompt, pictures) for prompt, pictures in zip(prompts, images or [], strict=True)]
        inputs = self._template(
            self.processor,
            chats,
            return_tensors="pt",
            processor_kwargs={"padding": True, "padding_side": "left"},
        )
        return dict(inputs)

    def _chat_ids(self, chat: list[dict[str, Any]]) -> list[int]:
        if self.processor is None or not getattr(self.processor, "chat_template", None):
            return super()._chat_ids(chat)
        inputs = self._template(self.processor, [chat])
        return list(inputs["input_ids"][0])

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
    ) -> DecodingState:
        def inside(
            model: Any,
            input_ids: torch.Tensor,
            logits_processor: Any,
            stopping_criteria: Any,
            generation_config: Any,
            **model_kwargs: Any,
        ) -> DecodingState:
            state = open_state(
                model,
                input_ids,
                logits_processor,
                stopping_criteria,
                generation_config,
                model_kwargs,
                streamer=streamer,
                trace=recorder,
                generator=generator,
                encode=self._encode_marker,
                decode=self._decode_all,
            )
            state.visual_names = visual_names(model, self.tokenizer)
            if not (getattr(method, "changes_model", False) or state.keeps_layers):
                state.compiled = self.compiled
            if callable(getattr(method, "decode", None)):
                decode(method, state)
            else:
                method(state)
            return state

        device = self.model.device
        inputs = {
            name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in inputs.items()
        }
        if streamer is not None:
            prompt = inputs.get("input_ids")  # none: the prompt is vectors
            streamer.put(torch.empty(1, 0, dtype=torch.long) if prompt is None else prompt.cpu())
        return self.model.generate(
            **inputs,
            generation_config=config,
            logits_processor=logits_processor,
            stopping_criteria=stopping_criteria,
            custom_generate=inside,
        )


def _with_images(prompt: Any, pictures: list[Any]) -> list[dict[str, Any]]:
    """The prompt as a chat whose first user turn holds the pictures; a chat that brings its own is left as it is."""
    if isinstance(prompt, torch.Tensor):
        raise ValueError("images go with text or a chat, not with token ids.")
    chat = as_chat(prompt)
    if any(part.get("type") == "image" for turn in chat for part in turn["content"] if isinstance(part, dict)):
        for turn in chat:  # templates want parts in every turn, or in none
            if isinstance(turn["content"], str):
                turn["content"] = [{"type": "text", "text": turn["content"]}]
        return chat
    loaded = [_load_image(picture) for picture in pictures]
    for turn in chat:
        if isinstance(turn["content"], str):
            turn["content"] = [{"type": "text", "text": turn["content"]}]
    users = [turn for turn in chat if turn["role"] == "user"]
    if not users:
        raise ValueError("a chat with images needs a user turn.")
    turn = users[0]
    turn["content"] = [{"type": "image", "image": picture} for picture in loaded] + list(turn["content"])
    return chat


def _load_image(picture: Any) -> Any:
    """A PIL image from a path, an array or a PIL image.

    Raises:
        ValueError: no such file, or no picture in it.
    """
    try:
        from PIL import Image
    except ModuleNotFoundError:
        raise ValueError("images need Pillow: pip install 'szilard[vision]'") from None
    if isinstance(picture, (str, Path)):
        path = Path(picture)
        if not path.is_file():
            raise ValueError(f"there is no image file {str(picture)!r}.")
        try:
            return Image.open(path).convert("RGB")
        except Exception:
            raise ValueError(f"{str(picture)!r} is not an image that can be read (PNG, JPEG, ...).") from None
    if isinstance(picture, Image.Image):
        return picture.convert("RGB")
    try:
        return Image.fromarray(picture).convert("RGB")
    except Exception:
        raise ValueError(
            f"an image is a file path, a PIL image or a uint8 array, not {type(picture).__name__}."
        ) from None
