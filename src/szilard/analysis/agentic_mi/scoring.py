"""How likely a scorer finds texts after a context: the context is read once, the texts in padded batches behind it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from szilard.analysis.agentic_mi.prompts import CondensePrompt
from szilard.engines.engine import Engine
from szilard.evaluation.likelihood import log_likelihoods


class Scorer:
    """An engine that scores texts under the request to condense a context.

    Args:
        engine: any engine; its own chat template is used, and texts are tokenised anew with its tokenizer.
        prompt: the request, alike for all contexts.
        sentences: asked for.
        temperature: that its logits are divided by.
    """

    def __init__(self, engine: Engine, prompt: CondensePrompt, sentences: int, temperature: float = 1.0) -> None:
        self.engine, self.prompt, self.sentences, self.temperature = engine, prompt, sentences, temperature

    def ids(self, context: str, query: str | None) -> list[int]:
        """The request's token ids, up to where the answer begins."""
        prompt = self.prompt.fill(context, query, self.sentences, chat=self.engine.has_chat_template)
        found: list[int] = self.engine.encode([prompt])["input_ids"][0].tolist()
        return found

    def text_ids(self, text: str, ended: bool) -> list[int]:
        """A text's token ids, exactly as it stands, and the end of text behind it unless it was cut off."""
        ids = list(self.engine.tokenizer.encode(text, add_special_tokens=False))
        end = self.engine.tokenizer.eos_token_id
        return [*ids, end] if ended and end is not None else ids

    def check_window(self, longest: tuple[int, int], text: int) -> None:
        """Refuse, before any work, what does not fit: cutting a context would silently remove information.

        Args:
            longest: tokens of the longest request, and the number of its context.
            text: tokens of the longest text behind it.

        Raises:
            ValueError: both together exceed the window.
        """
        window, (length, number) = self.engine.context_window, longest
        if window is not None and length + text > window:
            raise ValueError(
                f"context {number} takes {length} tokens with its request and up to {text} behind it, more than the "
                f"window of the scorer {self.engine.name} ({window}): shorten the contexts, or take a scorer with a "
                "longer window."
            )

    def column(self, context: str, queries: Sequence[str | None], texts: Sequence[list[int]]) -> np.ndarray:
        """Log-likelihoods of texts under one context, each under its own query.

        Args:
            context: the text that is read.
            queries: one for each text.
            texts: token ids, from `text_ids`.

        Returns:
            Nats, float64 [texts]: sums of float32 log-probabilities at `temperature`; padding is in no sum. A text
            without any token has the probability 1.
        """
        asked = {query: self.ids(context, query) for query in dict.fromkeys(queries)}
        prompts = [asked[query] for query in queries]
        scores = np.zeros(len(texts))
        for prefix, members in self._shared(prompts, texts):
            if not members:
                continue
            rows = [prompts[index][len(prefix) :] + texts[index] for index in members]
            found, _ = log_likelihoods(self.engine, torch.tensor(prefix), rows, temperature=self.temperature)
            for index, likelihood in zip(members, found, strict=True):
                own = likelihood.log_probabilities[len(prompts[index]) - len(prefix) :]
                scores[index] = np.sum(np.asarray(own, dtype=np.float64))
        return scores

    @staticmethod
    def _shared(prompts: Sequence[list[int]], texts: Sequence[list[int]]) -> list[tuple[list[int], list[int]]]:
        """Prefixes that are read once, and the texts behind each: all behind what their prompts have in common, or a
        prefix for each prompt, whichever makes the model read less."""
        there = [index for index, text in enumerate(texts) if text]
        if not there:
            return []
        groups: dict[tuple[int, ...], list[int]] = {}
        for index in there:
            groups.setdefault(tuple(prompts[index]), []).append(index)
        first, last = min(groups), max(groups)  # in lexical order: what these two share, all share
        common = next((at for at, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
        apart = sum(map(len, groups))
        together = common + sum(len(prompts[index]) - common for index in there)
        if len(groups) > 1 and common > 0 and together < apart:
            return [(list(first[:common]), there)]
        return [(list(prompt), members) for prompt, members in groups.items()]
