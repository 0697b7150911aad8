"""Hidden states of a corpus, computed once and kept on disk, so that heads train without running their model.

A folder of flat, memory-mapped files: every token's id, whether it belongs to an answer, and the model's hidden state
there. Writing resumes where a kill stopped it.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from torch.utils.data import Dataset

from szilard.training.corpus import Example, digest
from szilard.training.loop import Batch
from szilard.training.target import Target

_NAMES = {"lock", "header.json", "header.tmp", "done.json", "done.tmp"} | {
    *("offsets.i64", "ids.i32", "answer.u8", "hidden.f16"),
}
_GROUP = 64  # examples that are sorted by length before they are batched


class HiddenStates:
    """Tokens and hidden states of a corpus, on disk.

    Attributes:
        ids: int32 [tokens].
        answer: bool [tokens].
        hidden: float16 [tokens, hidden].
        offsets: where each example starts, int64 [examples + 1].
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.header = json.loads((folder / "header.json").read_text(encoding="utf-8"))
        tokens, width = self.header["tokens"], self.header["hidden_size"]
        self.offsets = np.fromfile(folder / "offsets.i64", dtype=np.int64)
        self.ids = np.memmap(folder / "ids.i32", dtype=np.int32, mode="r", shape=(tokens,))
        self.answer = np.memmap(folder / "answer.u8", dtype=np.uint8, mode="r", shape=(tokens,))
        self.hidden = np.memmap(folder / "hidden.f16", dtype=np.float16, mode="r", shape=(tokens, width))

    def __len__(self) -> int:
        return len(self.offsets) - 1


@torch.no_grad()
def cache_hidden_states(
    target: Target,
    examples: Sequence[Example],
    folder: Path,
    *,
    layer: int | str = -1,
    max_length: int | None = None,
    batch_size: int = 8,
    precision: str = "float32",
    progress: Callable[[int, int], None] | None = None,
) -> HiddenStates:
    """Run a corpus through the model once; what a stopped run has written is not computed again.

    Args:
        target: the model.
        examples: the corpus.
        folder: where the files go.
        layer: -1: what the output layer reads (after the final norm); another number: the residual stream after so
            many layers; "probability": in their place, one number, the probability of each token given those before.
        max_length: longer examples are cut.
        batch_size: rows per forward.
        precision: of the products: "bfloat16" or "float16" runs a float32 model under autocast.
        progress: called with (examples done, examples).

    Raises:
        ValueError: no examples, a folder of another corpus or model, a last hidden state that the output layer does
            not turn into the logits, or numbers beyond float16.
    """
    window = getattr(target.config, "max_position_embeddings", None)
    corpus = Tokens(target, examples, max_length=min((n for n in (max_length, window) if n), default=None))
    header: dict[str, Any] = {
        "model": target.engine.name,
        "fingerprint": target.engine.fingerprint,
        "layer": layer,
        "hidden_size": 1 if layer == "probability" else target.hidden_size,
        "tokens": int(corpus.offsets[-1]),
        "corpus": digest(corpus.examples),
        **({} if precision == "float32" else {"precision": precision}),
    }
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock"):  # trainings that share a cache wait for the first to fill it
        _fill(target, corpus.examples, folder, corpus, header, batch_size, progress)
    return HiddenStates(folder)


def _fill(
    target: Target,
    examples: Sequence[Example],
    folder: Path,
    corpus: Tokens,
    header: dict[str, Any],
    batch_size: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Write what is missing of a cache."""
    layer, offsets = header["layer"], corpus.offsets
    if not (folder / "header.json").is_file() and {path.name for path in folder.iterdir()} - _NAMES:
        raise ValueError(f"{str(folder)!r} holds other files: hidden states want a folder of their own.")
    shape = (header["tokens"], header["hidden_size"])
    known = folder / "header.json"
    if known.is_file():
        if json.loads(known.read_text(encoding="utf-8")) != header:
            raise ValueError(f"{str(folder)!r} holds hidden states of another corpus, model or layer: remove it.")
        sizes = {"offsets.i64": offsets.nbytes, "ids.i32": corpus.ids.nbytes, "answer.u8": corpus.answer.nbytes}
        sizes["hidden.f16"] = 2 * shape[0] * shape[1]
        for name, size in sizes.items():
            if not (folder / name).is_file() or (folder / name).stat().st_size != size:
                raise ValueError(f"{str(folder / name)!r} is missing or cut off: remove {str(folder)!r}.")
    else:
        for name, array in (("offsets.i64", offsets), ("ids.i32", corpus.ids), ("answer.u8", corpus.answer)):
            array.tofile(folder / name)
        np.memmap(folder / "hidden.f16", dtype=np.float16, mode="w+", shape=shape).flush()
        _write(folder / "done.json", 0)
        _write(known, header)  # last: from here on the folder is one of ours
    done = json.loads((folder / "done.json").read_text(encoding="utf-8"))
    hidden = np.memmap(folder / "hidden.f16", dtype=np.float16, mode="r+", shape=shape)
    for start in range(done, len(examples), _GROUP):
        group = sorted(range(start, min(start + _GROUP, len(examples))), key=lambda index: len(examples[index].ids))
        batches: list[list[int]] = [[row] for row in group if examples[row].images]  # pictures go alone
        texts = [row for row in group if not examples[row].images]
        batches += [texts[first : first + batch_size] for first in range(0, len(texts), batch_size)]
        for number, rows in enumerate(batches):
            with autocast(target.model.device, header.get("precision", "float32")):
                states = _run(target, [examples[row] for row in rows], layer, check=start == done and number == 0)
            for row, state in zip(rows, states, strict=True):
                hidden[offsets[row] : offsets[row + 1]] = state[: len(examples[row].ids)]
        hidden.flush()
        _write(folder / "done.json", group and start + len(group))
        if progress is not None:
            progress(start + len(group), len(examples))


def shortened(example: Example, length: int) -> Example:
    """The first so many tokens of an example.

    Raises:
        ValueError: a prompt with pictures would be cut.
    """
    prompt = example.answer.index(True) if True in example.answer else len(example.ids)
    if example.images and prompt >= length:
        raise ValueError(
            f"a prompt about {example.images[0]!r} has {prompt} tokens, more than the {length} of max_length: pictures "
            "cannot be cut."
        )
    return replace(example, ids=example.ids[:length], answer=example.answer[:length])


def _run(target: Target, rows: list[Example], layer: int | str, *, check: bool) -> np.ndarray[Any, Any]:
    """float16 [rows, longest, hidden]; rows are padded on the right, which causal attention never sees."""
    longest = max(len(row.ids) for row in rows)
    device = target.model.device
    tokens = torch.tensor([[*row.ids, *[0] * (longest - len(row.ids))] for row in rows], device=device)
    inputs: dict[str, Any] = {"input_ids": tokens}
    if rows[0].images:  # alone in its batch
        read = target.engine.encode([rows[0].prompt], images=[list(rows[0].images)])
        for name, value in read.items():
            if name in ("token_type_ids", "mm_token_type_ids"):  # the answer is text
                value = torch.nn.functional.pad(value, (0, longest - value.shape[1]))
            if name not in ("input_ids", "attention_mask"):
                inputs[name] = value.to(device)
    if layer == "probability":
        logits = target.model(**inputs, use_cache=False).logits[:, :-1].float()
        chance = logits.gather(2, tokens[:, 1:, None]) - logits.logsumexp(-1, keepdim=True)
        first = chance.new_zeros(len(rows), 1, 1)  # nothing stands before the first token to predict it
        return torch.cat([first, chance.exp()], dim=1).to(torch.float16).cpu().numpy()
    # The output layer is run for one position only: heads read hidden states.
    outputs = target.model(**inputs, output_hidden_states=True, use_cache=False, logits_to_keep=1)
    found = outputs.hidden_states[int(layer)]
    if check and layer == -1:
        logits = target.unembed(found[:, -1])
        loose = 1e-2 if not torch.is_autocast_enabled(found.device.type) else 1e-1
        if not torch.allclose(logits.float(), outputs.logits[:, -1].float(), atol=loose, rtol=loose):
            raise ValueError(
                f"{type(target.model).__name__} does not compute its logits from its last hidden state by its output "
                "layer alone, which drafting heads need."
            )
    half = found.to(torch.float16)
    if not bool(torch.isfinite(half).all()):
        raise ValueError("the hidden states exceed the range of float16; choose a later layer.")
    return half.cpu().numpy()


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Products in this precision; float32: as the weights are."""
    dtype = {"float16": torch.float16}.get(precision, torch.bfloat16)
    return torch.autocast(device.type, dtype=dtype, enabled=precision != "float32")


def _write(file: Path, value: Any) -> None:
    scratch = file.with_suffix(".tmp")
    scratch.write_text(json.dumps(value), encoding="utf-8")
    os.replace(scratch, file)


class Tokens:
    """A corpus in memory, flat; `hidden` is None.

    Args:
        target: the model.
        examples: the corpus.
        max_length: longer texts are cut; None: never. Who reads them in stretches need not cut them to what the model
            reads at once.

    Raises:
        ValueError: nothing in it, a token outside the vocabulary, or a prompt with pictures that would be cut.
    """

    hidden = None

    def __init__(self, target: Target, examples: Sequence[Example], *, max_length: int | None = None) -> None:
        self.examples = [shortened(example, max_length or 2**31) for example in examples if example.ids]
        if not self.examples:
            raise ValueError("the corpus is empty.")
        self.offsets = np.cumsum([0, *(len(example.ids) for example in self.examples)]).astype(np.int64)
        self.ids = np.concatenate([np.asarray(example.ids, dtype=np.int32) for example in self.examples])
        self.answer = np.concatenate([np.asarray(example.answer, dtype=np.uint8) for example in self.examples])
        if self.ids.max() >= target.vocab_size or self.ids.min() < 0:
            raise ValueError(
                f"the corpus holds token {self.ids.max()}, but the vocabulary of the model has {target.vocab_size}."
            )


class Stretches(Dataset[Batch]):
    """Stretches of texts, which know whose they are.

    Attributes:
        texts: the text that each stretch is of.
    """

    texts: list[int]


class Windows(Stretches):
    """Stretches of cached examples of at most `length` tokens, those without answer tokens left out.

    Each is {"ids" int64 [n], "answer" bool [n], "hidden" float32 [n, hidden]}, the last where it was cached.
    """

    def __init__(self, cache: HiddenStates | Tokens, length: int, *, shortest: int = 8) -> None:
        self.cache = cache
        self.spans: list[tuple[int, int]] = []
        self.texts = []
        for text, (start, end) in enumerate(itertools.pairwise(cache.offsets.tolist())):
            for first in range(start, end, length):
                last = min(first + length, end)
                if last - first >= shortest and cache.answer[first + 2 : last].any():  # something to be guessed
                    self.spans.append((first, last))
                    self.texts.append(text)

    def __len__(self) -> int:
        return len(self.spans)

    def __getitem__(self, index: int) -> Batch:
        first, last = self.spans[index]
        window = {
            "ids": torch.from_numpy(self.cache.ids[first:last].astype(np.int64)),
            "answer": torch.from_numpy(self.cache.answer[first:last].astype(bool)),
        }
        if self.cache.hidden is not None:
            window["hidden"] = torch.from_numpy(self.cache.hidden[first:last].astype(np.float32))
        return window

    @staticmethod
    def collate(windows: Sequence[Batch]) -> Batch:
        """A batch, padded on the right: every entry [batch, length, ...], and "valid" bool [batch, length]."""
        longest = max(len(window["ids"]) for window in windows)

        def padded(name: str) -> torch.Tensor:
            rows = [window[name] for window in windows]
            out = rows[0].new_zeros(len(rows), longest, *rows[0].shape[1:])
            for line, row in zip(out, rows, strict=True):
                line[: len(row)] = row
            return out

        lengths = torch.tensor([len(window["ids"]) for window in windows])
        valid = torch.arange(longest) < lengths[:, None]
        return {name: padded(name) for name in windows[0]} | {"valid": valid}
