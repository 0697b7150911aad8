"""LLMLingua-2: words that a small bidirectional encoder finds dispensable are left out.

Pan, Wu, Jiang, Xia, Luo, Zhang, Lin, Rühle, Yang, Lin, Zhao, Qiu, Zhang 2024, "LLMLingua-2: Data Distillation for
Efficient and Faithful Task-Agnostic Prompt Compression", Findings of ACL 2024, arXiv 2403.12968.

    p_t = softmax(W h_t + b)[keep]                   per token of the encoder                      [tokens]
    p_i = mean of p_t over the tokens of word i      whole words only                              [words]
    keep the tau N words with the highest p_i, in their order

Nothing is rewritten, the question is not looked at, and one encoder pass over the text is all it takes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from szilard.compression.dropping import Limit, ScoredText, WordDropping
from szilard.compression.llmlingua2 import onnx_backend, peer
from szilard.compression.llmlingua2.chunks import chunk_bounds, word_scores
from szilard.compression.llmlingua2.classifier import KeepClassifier, inspect, opened, reading_once
from szilard.compression.llmlingua2.recover import recover
from szilard.compression.method import Budget, tokens_of_budget
from szilard.compression.text import CompressedText
from szilard.compression.token_counter import TokenCounter
from szilard.compression.words import check_keep, regex_words
from szilard.options import check_bool, check_choice, check_number

if TYPE_CHECKING:
    from szilard.engines.engine import Engine


DEFAULT = "zoo/tiny-llmlingua2"


@dataclass(frozen=True)
class LlmLingua2(WordDropping):
    """Drops the words with the lowest keep probability.

    Attributes:
        checkpoint: a `KeepClassifier`, or the folder, hub id or zoo name of one: any `...ForTokenClassification` model
            with two labels and a fast tokenizer. `szilard train llmlingua2` makes one; the default is small, of the
            zoo, and trained on English. None: nothing is dropped.
        token_to_word: a word's probability: the "mean" of its tokens', or that of the "first".
        chunk_end: strings behind which a text that is longer than `max_length` may be cut for the encoder.
        max_length: tokens of a chunk, special ones included.
        batch_size: chunks of a batch; those of all contexts go through the encoder together, sorted by length.
        context_rate: of several contexts, the share that stays at all (those with the highest mean probability); what
            the others would have been given goes to them. None: all stay.
        keep_contexts: positions of contexts that stay whatever `context_rate` says.
        compat: do exactly what the released code does (see `released`), with its slips.
        backend: what the encoder runs on: "torch" or "onnx".
        precision: of PyTorch's products: "float32", or "bfloat16", which is faster where the processor has it and moves
            probabilities in the second decimal place.
    """

    slug: ClassVar[str] = "llmlingua2"
    paper: ClassVar[str] = "Pan et al., Findings of ACL 2024, arXiv 2403.12968"
    scale: ClassVar[tuple[float, float]] = (0.0, 1.0)

    checkpoint: KeepClassifier | str | None = DEFAULT
    token_to_word: str = "mean"
    chunk_end: str | object = (".", "\n")
    max_length: int = 512
    batch_size: int = 16
    context_rate: float | None = None
    keep_contexts: tuple[int, ...] = ()
    compat: bool = False
    backend: str = "torch"
    precision: str = "float32"

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.checkpoint, Path):
            object.__setattr__(self, "checkpoint", str(self.checkpoint))
        if self.checkpoint is not None and not isinstance(self.checkpoint, (str, KeepClassifier)):
            raise TypeError(f"checkpoint must be a KeepClassifier, its folder or hub id, not {self.checkpoint!r}.")
        check_choice("token_to_word", self.token_to_word, ("mean", "first"))
        object.__setattr__(self, "chunk_end", check_keep(self.chunk_end))
        if len(self.chunk_ends) < len(check_keep(self.chunk_end)):
            raise TypeError("chunk_end takes strings, not patterns.")
        check_number("max_length", self.max_length, low=8, integer=True)
        check_number("batch_size", self.batch_size, low=1, integer=True)
        check_number("context_rate", self.context_rate, low=0, high=1, optional=True)
        for position in self.keep_contexts:
            check_number("keep_contexts", position, low=0, integer=True)
        check_bool("compat", self.compat)
        check_choice("backend", self.backend, ("torch", "onnx"))
        check_choice("precision", self.precision, ("float32", "bfloat16"))
        if self.backend == "onnx" and self.precision != "float32":
            raise ValueError("backend='onnx' runs in float32: precision='float32'.")
        if self.compat:
            peer.check_compat(self)

    @classmethod
    def neutral(cls) -> LlmLingua2:
        """Nothing is dropped, and no classifier is needed."""
        return cls(checkpoint=None, rate=1.0)

    @classmethod
    def released(cls, checkpoint: Any, count_tokens: Callable[[str], int], **options: Any) -> LlmLingua2:
        """As the released code runs it, on a CPU or GPU, token for token.

        Args:
            checkpoint: as the field.
            count_tokens: cl100k tokens of a text, by which it weighs words and counts rates:
                `lambda text: len(tiktoken.get_encoding("cl100k_base").encode(text))`.
        """
        return cls(checkpoint=checkpoint, count_tokens=count_tokens, selection="percentile", compat=True, **options)

    @classmethod
    def from_pretrained(cls, where: str | Path, **options: Any) -> LlmLingua2:
        """The method with the classifier in a folder, a hub repository or the zoo.

        Raises:
            ValueError: there is none, or it is of another kind.
        """
        return cls(checkpoint=KeepClassifier.from_pretrained(where), **options)

    def check(self, engine: Engine | None = None) -> None:
        """Refuse a missing classifier, one of another kind, and a backend that is not installed."""
        if self.backend == "onnx":
            onnx_backend.check_installed()
        if isinstance(self.checkpoint, str):
            inspect(self.checkpoint)
        elif self.checkpoint is None and self.rate < 1:
            self.classifier()

    def recorded_options(self, engine: Engine) -> dict[str, Any]:
        """The classifier by the hash of its weights."""
        changed = self.changed_options()
        if self.checkpoint is not None:
            changed["checkpoint"] = self.classifier().fingerprint
        return changed

    @property
    def chunk_ends(self) -> tuple[str, ...]:
        """What `chunk_end` names."""
        return tuple(end for end in check_keep(self.chunk_end) if isinstance(end, str))

    def classifier(self) -> KeepClassifier:
        """The classifier, loaded.

        Raises:
            ValueError: none was given, or it is broken.
        """
        if self.checkpoint is None:
            raise ValueError(
                "llmlingua2 needs a classifier: checkpoint='folder or hub id'; `szilard train llmlingua2 --pairs ... "
                "-o folder` makes one."
            )
        return opened(self.checkpoint) if isinstance(self.checkpoint, str) else self.checkpoint

    def counter(self, engine: Engine | None) -> TokenCounter:
        """The function's tokens where one was given, else the engine's, else the classifier's own."""
        if self.checkpoint is None or engine is not None or self.count_tokens is not None:
            return super().counter(engine)
        classifier = self.classifier()
        return TokenCounter(
            classifier.name,
            classifier.tokenizer,
            read=lambda texts: [encoded.places for encoded in classifier.encode(texts)],
        )

    def compress(
        self, contexts: Sequence[str], budget: Budget = None, *, engine: Engine | None = None
    ) -> list[CompressedText]:
        share = self.rate if budget is None else budget
        if self.checkpoint is None and (self.selection == "threshold" or isinstance(share, int) or share < 1.0):
            self.classifier()  # says what is missing
        if missing := [position for position in self.keep_contexts if position >= len(contexts)]:
            raise ValueError(f"keep_contexts names context {missing[0]}, but there are {len(contexts)}, from 0 on.")
        if self.compat:
            return peer.compress(self, contexts, budget, engine)
        with reading_once():
            return super().compress(contexts, budget, engine=engine)

    def scored(self, contexts: Sequence[str], engine: Engine | None) -> list[ScoredText]:
        if self.checkpoint is None:  # everything stays, and no model is needed
            segmented = [self.regex_segmented(text) for text in contexts]
            return [
                ScoredText(text, spans, np.ones(len(spans)), forced)
                for text, (spans, forced) in zip(contexts, segmented, strict=True)
            ]
        classifier = self.classifier()
        if self.max_length > classifier.longest:
            raise ValueError(
                f"max_length={self.max_length}, but {classifier.name!r} has {classifier.longest} positions."
            )
        before, after = (np.asarray(ids, dtype=np.int64) for ids in classifier.specials)
        size = self.max_length - len(before) - len(after)
        encoded = classifier.encode(contexts)
        words = [regex_words(text) for text in contexts]
        bounds = [
            chunk_bounds(text, tokens.places, spans, self.chunk_ends, size)
            for text, tokens, spans in zip(contexts, encoded, words, strict=True)
        ]
        rows = [
            np.concatenate([before, tokens.ids[first:last], after])
            for tokens, cuts in zip(encoded, bounds, strict=True)
            for first, last in cuts
        ]
        found = iter(
            classifier.keep_probability(
                rows, batch_size=self.batch_size, backend=self.backend, precision=self.precision
            )
        )
        results = []
        for text, tokens, spans, cuts in zip(contexts, encoded, words, bounds, strict=True):
            parts = [next(found)[len(before) : len(before) + last - first] for first, last in cuts]
            probabilities = np.concatenate(parts) if parts else np.zeros(0)
            spans, forced = self.segmented(text, spans)
            scores = word_scores(spans, tokens.places, probabilities, self.token_to_word)
            through = len(tokens.ids) + len(cuts) * (len(before) + len(after))
            results.append(ScoredText(text, spans, scores, forced, {"forwards": len(cuts), "tokens": through}))
        return results

    def shared_out(self, texts: Sequence[ScoredText], limits: list[Limit]) -> list[Limit]:
        """What contexts that do not stay would have been given goes to those that do, at one rate for all."""
        if self.context_rate is None or len(texts) < 2:
            return limits
        # Paper (released code): the percentile of contexts' means, and both filters cut, so that less stays than was
        # asked for; here: the best contexts, exactly that share of them, and the rate is made good on their words.
        means = np.array([text.scores.mean() if len(text.scores) else 0.0 for text in texts])
        stays = np.zeros(len(texts), dtype=bool)
        stays[np.argsort(-means, kind="stable")[: max(1, round(self.context_rate * len(texts)))]] = True
        stays[list(self.keep_contexts)] = True
        reserved = sum(limit.original for limit, kept in zip(limits, stays, strict=True) if kept)
        rate = min(1.0, sum(limit.tokens for limit in limits) / reserved)
        return [
            Limit.of(limit.original, tokens_of_budget(rate, limit.original) if kept else 0, rate)
            for limit, kept in zip(limits, stays, strict=True)
        ]

    def compress_stream(
        self, source: Iterable[str] | Path, budget: Budget = None, *, engine: Engine | None = None, window: int = 16_384
    ) -> Iterator[str]:
        if self.compat:
            raise ValueError("compat follows the released code, which has no streams: leave it out.")
        return super().compress_stream(source, budget, engine=engine, window=window)

    def compress_prompt(self, context: str | Sequence[str], **options: Any) -> dict[str, Any]:
        """The released code's `PromptCompressor.compress_prompt`: its arguments and result; see `peer`.

        With `compat` its slips too; without, the same procedure without them.
        """
        return peer.compress_prompt(self, context, **options)

    def recover(self, original_prompt: str, compressed_prompt: str, response: str) -> str:
        """A response to the compressed prompt, with what it quotes as it stands in the original; see `recover`."""
        return recover(self.classifier().tokenizer, original_prompt, compressed_prompt, response)
