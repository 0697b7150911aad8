"""Between text and token ids: what every engine does with its tokenizer and the model's chat template."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from jinja2 import TemplateError
from transformers import StopStringCriteria

from szilard.engines.prompts import Prompt, as_chat, is_chat

_STOPS_KEPT = 8  # lists of stop texts whose criterion is kept


class Tokenized(ABC):
    """A model's way of reading prompts and of writing text.

    Attributes:
        name: of the model, for messages.
        tokenizer: a Hugging Face tokenizer.
    """

    name: str
    tokenizer: Any

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """Width of the logits; the ids that a prompt may hold."""

    @property
    def has_chat_template(self) -> bool:
        """Whether chats can be written for this model."""
        return bool(getattr(self.tokenizer, "chat_template", None))

    @property
    def _pad_token_id(self) -> int:
        for token in (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id):
            if token is not None:
                return int(token)
        return 0

    def _encode_text(self, prompts: Sequence[Prompt], raw: bool) -> dict[str, torch.Tensor]:
        """Left-padded ids and mask of text prompts, chats and id tensors."""
        rows = [self._ids(prompt, raw) for prompt in prompts]
        width = max(len(row) for row in rows)
        ids = torch.full((len(rows), width), self._pad_token_id, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for index, row in enumerate(rows):
            ids[index, width - len(row) :] = torch.tensor(row, dtype=torch.long)
            mask[index, width - len(row) :] = 1
        return {"input_ids": ids, "attention_mask": mask}

    def _ids(self, prompt: Prompt, raw: bool) -> list[int]:
        if isinstance(prompt, torch.Tensor):
            if prompt.is_floating_point() or prompt.dtype == torch.bool or prompt.dim() != 1:
                raise ValueError(f"token ids must be a 1-D integer tensor, not {prompt.dtype} {tuple(prompt.shape)}.")
            ids = prompt.tolist()
            if bad := [token for token in ids if not 0 <= token < self.vocab_size]:
                raise ValueError(
                    f"token id {bad[0]} is outside the vocabulary of {self.name} (0..{self.vocab_size - 1})."
                )
        elif is_chat(prompt) or (isinstance(prompt, str) and not raw and self.has_chat_template):
            ids = self._chat_ids(as_chat(prompt))
        elif isinstance(prompt, str):
            ids = self.tokenizer(prompt)["input_ids"] if prompt else []
        else:
            raise TypeError(f"a prompt is text, a chat or token ids, not {type(prompt).__name__}.")
        if not ids or (isinstance(prompt, str) and not prompt.strip()):
            raise ValueError("the prompt is empty; give some text.")
        return ids

    def _chat_ids(self, chat: list[dict[str, Any]]) -> list[int]:
        if not self.has_chat_template:
            raise ValueError(f"{self.name} has no chat template; give the prompt as plain text.")
        ids = self._template(self.tokenizer, chat)
        return list(ids["input_ids"])

    def _template(self, owner: Any, chat: Any, **options: Any) -> Any:
        """The chat (or chats) through the template of a tokenizer or processor.

        Raises:
            ValueError: the template refuses it.
        """
        try:
            return owner.apply_chat_template(
                chat, add_generation_prompt=True, tokenize=True, return_dict=True, **options
            )
        except TemplateError as error:
            raise ValueError(f"the chat template of {self.name} refuses this chat: {error}") from error

    def stop_criterion(self, texts: tuple[str, ...]) -> StopStringCriteria:
        """Transformers' criterion that ends a row at one of these texts.

        Raises:
            ValueError: the tokenizer's tokens cannot be spelled out (a word-level tokenizer).
        """
        if texts not in self._stop_criteria:
            if len(self._stop_criteria) >= _STOPS_KEPT:
                del self._stop_criteria[next(iter(self._stop_criteria))]
            try:
                self._stop_criteria[texts] = StopStringCriteria(self.tokenizer, list(texts))
            except ValueError as error:
                raise ValueError(f"stop texts do not work with the tokenizer of {self.name} ({error}).") from error
        return self._stop_criteria[texts]

    @cached_property
    def _stop_criteria(self) -> dict[tuple[str, ...], StopStringCriteria]:
        return {}  # making one takes a second: it spells out the vocabulary

    def decode_text(self, tokens: list[int]) -> str:
        """The tokens as text, special tokens left out."""
        text: str = self.tokenizer.decode(tokens, skip_special_tokens=True)
        return text

    def decode_all(self, tokens: list[int]) -> str:
        """The tokens as text, special tokens among it."""
        return self._decode_all(tokens)

    def read_before(self, prompt: list[int]) -> list[int]:
        """The end of a prompt from which its raw continuation is to be decoded, so that no space is lost."""
        return self._read_before(prompt)

    def _read_before(self, prompt: list[int]) -> list[int]:
        """The end of the prompt from which its continuation is read on; whole characters."""
        for width in (4, 16):
            if "\ufffd" not in self.tokenizer.decode(prompt[-width:], skip_special_tokens=True):
                return prompt[-width:]
        return []

    def _decode_after(self, before: list[int], tokens: list[int]) -> str:
        """The text of `tokens`, read on from `before`: alone, a SentencePiece tokenizer drops its first space."""
        known, whole = (self.tokenizer.decode(ids, skip_special_tokens=True) for ids in (before, before + tokens))
        if before and whole.startswith(known):
            return whole[len(known) :]
        return self.tokenizer.decode(tokens, skip_special_tokens=True)

    def _decode_all(self, tokens: list[int]) -> str:
        return self.tokenizer.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def _encode_marker(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)
