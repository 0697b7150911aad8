"""The classifier of LLMLingua-2: an encoder with two labels per token, "drop" and "keep", and its tokenizer.

    p_t = softmax(W h_t + b)[1]        the probability that token t is kept                         [tokens]

Any `...ForTokenClassification` checkpoint with two labels and a fast tokenizer (one that knows which characters a token
came from) will do: XLM-RoBERTa, multilingual BERT, MiniLM, ...
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForTokenClassification, AutoTokenizer

from szilard.compression.words import Spans, as_spans, solid_places
from szilard.engines.fast_linear import use_fast_linears
from szilard.engines.loading import find
from szilard.engines.model_parts import weights_fingerprint

if TYPE_CHECKING:
    from szilard.compression.llmlingua2.onnx_backend import OnnxEncoder
    from szilard.compression.llmlingua2.released import ReleasedTokenizer

KEEP = 1  # the label of words that stay, in all released checkpoints
_HOW = "`szilard train llmlingua2 --pairs ... -o folder` makes one"


@dataclass(frozen=True)
class Encoded:
    """A text in the classifier's tokens.

    Attributes:
        ids: int64 [tokens], without special ones.
        places: int64 [tokens, 2], the characters that each came from, without white space in front.
    """

    ids: NDArray[np.int64]
    places: Spans


class KeepClassifier:
    """A token classifier that is ready to run.

    Args:
        model: a transformers `...ForTokenClassification` model with two labels.
        tokenizer: its fast tokenizer.
        name: for results and messages.

    Raises:
        ValueError: another number of labels, another kind of model, a slow tokenizer.
    """

    def __init__(self, model: Any, tokenizer: Any, name: str = "classifier") -> None:
        check_classifier(model.config, tokenizer, name, type(model).__name__)
        self.model, self.tokenizer, self.name = model.eval(), tokenizer, name
        use_fast_linears(self.model)

    @classmethod
    def from_pretrained(cls, where: str | Path, *, device: str | None = None) -> KeepClassifier:
        """The classifier in a folder, a hub repository or the zoo, in float32 on a CPU.

        Raises:
            ValueError: there is none, it is of another kind, or its weights are incomplete.
        """
        source, name = _source(where)
        config, tokenizer = _described(source, name)
        try:
            loaded: Any = AutoModelForTokenClassification.from_pretrained(
                source, config=config, output_loading_info=True, use_safetensors=True, dtype=torch.float32
            )
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            raise ValueError(f"no usable classifier in {source!r}: {' '.join(str(error).split())[:300]}") from error
        model, report = loaded
        if missing := sorted(report["missing_keys"]):
            raise ValueError(
                f"the weights in {source!r} are incomplete: {missing[0]} and {len(missing) - 1} more miss."
            )
        if device is None:
            device = "cuda" if torch.cuda.is_available() else "cpu"
        return cls(model.to(device), tokenizer, name)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the weights."""
        return weights_fingerprint(self.model)

    @cached_property
    def specials(self) -> tuple[list[int], list[int]]:
        """Ids that the model was trained to see before and after a text."""
        encoded = self.tokenizer("a", return_special_tokens_mask=True)
        ids, mask = encoded["input_ids"], encoded["special_tokens_mask"]
        first = mask.index(0) if 0 in mask else len(ids)
        last = len(mask) - mask[::-1].index(0) if 0 in mask else len(ids)
        return ids[:first], ids[last:]

    @cached_property
    def longest(self) -> int:
        """Positions that the model has, special tokens included."""
        return int(min(positions(self.model.config), self.tokenizer.model_max_length))

    @cached_property
    def released(self) -> ReleasedTokenizer:
        """With the added tokens of the released code."""
        from szilard.compression.llmlingua2.released import ReleasedTokenizer

        return ReleasedTokenizer(self)

    @cached_property
    def onnx(self) -> OnnxEncoder:
        """The same weights in ONNX Runtime."""
        from szilard.compression.llmlingua2.onnx_backend import OnnxEncoder

        return OnnxEncoder.of(self)

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        """Each text in tokens; inside of `reading_once`, each only once."""
        memory = _MEMORY.get()
        if memory is None:
            memory = {}
        if new := [text for text in dict.fromkeys(texts) if text not in memory]:
            encoded = self.tokenizer(
                new,
                add_special_tokens=False,
                return_offsets_mapping=True,
                return_attention_mask=False,
                verbose=False,
            )
            for text, ids, places in zip(new, encoded["input_ids"], encoded["offset_mapping"], strict=True):
                memory[text] = Encoded(np.asarray(ids, dtype=np.int64), solid_places(text, as_spans(places)))
        return [memory[text] for text in texts]

    def keep_probability(
        self,
        rows: Sequence[NDArray[np.int64]],
        *,
        batch_size: int,
        backend: str = "torch",
        precision: str = "float32",
        hidden: int | None = None,
    ) -> list[NDArray[np.float32]]:
        """p_t of every token, in batches of rows of about the same length.

        Args:
            rows: int64 [tokens] each, special tokens included.
            batch_size: rows of a batch.
            backend: "torch" or "onnx".
            precision: of PyTorch's products: "float32" or "bfloat16".
            hidden: id of a token that no other token may look at, beside the padding.

        Returns:
            float32 [tokens] per row.
        """
        found: list[Any] = [None] * len(rows)
        order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
        run = self.onnx if backend == "onnx" else partial(self._forward, half=precision == "bfloat16")
        padding = self.tokenizer.pad_token_id or 0
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            width = len(rows[batch[-1]])
            ids = np.full((len(batch), width), padding, dtype=np.int64)
            mask = np.zeros((len(batch), width), dtype=np.int64)
            for line, index in enumerate(batch):
                ids[line, : len(rows[index])] = rows[index]
                mask[line, : len(rows[index])] = 1
            if hidden is not None:
                mask[ids == hidden] = 0
            probabilities = run(ids, mask)  # [batch, width]
            for line, index in enumerate(batch):
                found[index] = probabilities[line, : len(rows[index])]
        return found

    @torch.inference_mode()
    def _forward(self, ids: NDArray[np.int64], mask: NDArray[np.int64], half: bool = False) -> NDArray[np.float32]:
        device = self.model.device
        attention = None if mask.all() else torch.from_numpy(mask).to(device)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=half):
            logits = self.model(input_ids=torch.from_numpy(ids).to(device), attention_mask=attention).logits
        return logits.float().softmax(-1)[..., KEEP].cpu().numpy()


_MEMORY: ContextVar[dict[str, Encoded] | None] = ContextVar("read texts", default=None)


@contextlib.contextmanager
def reading_once() -> Iterator[None]:
    """While this is open, what one classifier has read is not read again."""
    token = _MEMORY.set({})
    try:
        yield
    finally:
        _MEMORY.reset(token)


# Models that number positions from the padding token's id on, so that they have that many fewer of them.
_PADDED_POSITIONS = {"xlm-roberta", "roberta", "camembert", "xlm-roberta-xl", "longformer", "mpnet", "data2vec-text"}


def positions(config: Any) -> int:
    """Tokens that an encoder can read at once, special ones included."""
    found = getattr(config, "max_position_embeddings", None) or 512
    if config.model_type in _PADDED_POSITIONS:  # they count from behind the padding token's
        found -= (config.pad_token_id or 0) + 1
    return int(found)


def opened(where: str) -> KeepClassifier:
    """The classifier in a folder, hub repository or the zoo, opened once for each time it was written.

    Raises:
        ValueError: as `KeepClassifier.from_pretrained`.
    """
    weights = Path(_source(where)[0]) / "model.safetensors"
    return _opened(where, weights.stat().st_mtime_ns if weights.is_file() else 0)


@lru_cache(maxsize=2)
def _opened(where: str, written: int) -> KeepClassifier:
    return KeepClassifier.from_pretrained(where)


def inspect(where: str) -> None:
    """Refuse what is no classifier, without reading its weights.

    Raises:
        ValueError: in a sentence.
    """
    _described(*_source(where))


def check_classifier(config: Any, tokenizer: Any, name: str, architecture: str) -> None:
    """Refuse a model that does not label tokens with "drop" and "keep", and a tokenizer without character offsets.

    Raises:
        ValueError: in a sentence.
    """
    if "ForTokenClassification" not in architecture:
        raise ValueError(
            f"{name!r} is a {architecture or 'model without a head'}, but llmlingua2 needs a token classifier "
            f"(...ForTokenClassification with two labels): {_HOW}."
        )
    if config.num_labels != 2:
        raise ValueError(
            f"{name!r} has {config.num_labels} labels per token, but llmlingua2 needs two, drop and keep: {_HOW}."
        )
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError(
            f"the tokenizer of {name!r} ({type(tokenizer).__name__}) does not say which characters a token came from: "
            "give one with a tokenizer.json (a fast tokenizer)."
        )


def _source(where: str | Path) -> tuple[str, str]:
    path, name = find(where)
    return str(path) if path is not None else name, name


def _described(source: str, name: str) -> tuple[Any, Any]:
    """Config and tokenizer of a checkpoint, checked."""
    try:
        config = AutoConfig.from_pretrained(source)
        tokenizer = AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        raise ValueError(f"no usable classifier in {source!r}: {' '.join(str(error).split())[:300]}") from error
    check_classifier(config, tokenizer, name, (getattr(config, "architectures", None) or [""])[0])
    return config, tokenizer
