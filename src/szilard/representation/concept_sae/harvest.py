"""Activations of a layer over many texts, streamed to disk in memory that does not grow.

Texts are read a few batches at a time, padded on the right, and every real token's hidden_states[k] becomes a row. Rows
are in the order of the texts. A shard ends between two groups of batches, so that a stopped harvest goes on with the
very batches that it would have had.
"""

from __future__ import annotations

import hashlib
import itertools
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from szilard.options import check_choice, check_number
from szilard.representation.concept_sae.layers import LayerReader
from szilard.representation.concept_sae.store import NUMBERS, ActivationStore, ActivationWriter
from szilard.whole_folder import as_folder, check_folder, held

_GROUP = 4  # batches whose texts are sorted by length


@torch.no_grad()
def harvest_activations(
    engine_or_model: Any,
    texts: Iterable[str | Sequence[int]],
    folder: Path | str,
    *,
    layer: int = -1,
    tokenizer: Any = None,
    max_length: int = 512,
    max_rows: int | None = None,
    skip_first: int = 0,
    batch_size: int = 8,
    numbers: str = "float16",
    shard_rows: int = 65536,
    progress: Callable[[int], None] | None = None,
) -> ActivationStore:
    """Write a layer's activations on texts; what a stopped harvest has written is not computed again.

    Args:
        engine_or_model: an engine of transformers, or a model of transformers (of an encoder-decoder the encoder).
        texts: strings, or token ids; read once, as they are needed. More texts than the last time: they are added.
        folder: of its own; gets the shards.
        layer: k of hidden_states[k]: 0 are the embeddings, -1 is what the output layer reads.
        tokenizer: for strings; an engine has one.
        max_length: longer texts are cut, in tokens; never more than the model takes.
        max_rows: stop after so many rows.
        skip_first: tokens at the beginning of each text that give no row. Many models have giant activations on the
            first token; but single words, as concepts are tested with, have no other.
        batch_size: texts per forward.
        numbers: float16 or float32, on disk.
        shard_rows: rows of a shard; about so many are in memory.
        progress: called with the rows so far.

    Raises:
        TypeError: no model of transformers, or texts that are neither strings nor token ids.
        ValueError: no such layer, a model that does not run on token ids alone, no text, a folder of other
            activations, or activations beyond the format.
    """
    folder = as_folder(folder)
    model, tokenizer = _model(engine_or_model, tokenizer)
    for name, value in (("max_length", max_length), ("batch_size", batch_size), ("shard_rows", shard_rows)):
        check_number(name, value, low=1, integer=True)
    check_number("max_rows", max_rows, low=1, integer=True, optional=True)
    check_number("skip_first", skip_first, low=0, integer=True)
    check_choice("numbers", numbers, tuple(NUMBERS))
    if isinstance(texts, (str, bytes)) or not isinstance(texts, Iterable):
        raise TypeError(f"texts must be several strings or lists of token ids, not {type(texts).__name__}.")
    check_folder(folder)
    was = model.training
    model.eval()
    try:
        reader = LayerReader(model, layer)
        max_length = min(max_length, reader.positions or max_length)
        return _harvest(
            model,
            reader,
            texts,
            folder,
            tokenizer,
            max_length,
            max_rows,
            skip_first,
            batch_size,
            numbers,
            shard_rows,
            progress,
        )
    finally:
        model.train(was)


def _harvest(
    model: Any,
    reader: LayerReader,
    texts: Iterable[str | Sequence[int]],
    folder: Path,
    tokenizer: Any,
    max_length: int,
    max_rows: int | None,
    skip_first: int,
    batch_size: int,
    numbers: str,
    shard_rows: int,
    progress: Callable[[int], None] | None,
) -> ActivationStore:
    folder.mkdir(parents=True, exist_ok=True)
    header = {
        "model": str(getattr(model.config, "name_or_path", "") or type(model).__name__),
        "fingerprint": _fingerprint(model),
        "layer": reader.layer,
        "input_dim": reader.width,
        "numbers": numbers,
        "max_length": max_length,
        "max_rows": max_rows,
        "skip_first": skip_first,
    }
    with held(folder / "lock", f"activations to {str(folder)!r}"):
        writer = ActivationWriter(folder, header)
        seen = hashlib.sha256()
        source = _known(iter(texts), writer, seen)
        done = writer.texts
        while max_rows is None or writer.rows < max_rows:
            group = list(itertools.islice(source, batch_size * _GROUP))
            if not group:
                break
            ids = [_ids(text, tokenizer, max_length, reader.vocabulary) for text in group]
            for rows in _rows(reader, ids, batch_size, skip_first):
                left = len(rows) if max_rows is None else max_rows - writer.rows
                if left > 0:
                    writer.append(rows[:left])
            done += len(group)
            for text in group:
                seen.update(_bytes(text))
            if writer.in_memory >= shard_rows:
                writer.flush(done, seen.hexdigest())
            if progress is not None:
                progress(writer.rows)
        if done > writer.texts:
            writer.flush(done, seen.hexdigest())
    if not writer.rows:
        raise ValueError("the texts give no activations: each is empty, or shorter than skip_first.")
    return ActivationStore(folder)


def _model(given: Any, tokenizer: Any) -> tuple[Any, Any]:
    model = given if isinstance(given, nn.Module) else getattr(given, "model", None)
    if not isinstance(model, nn.Module) or not hasattr(getattr(model, "config", None), "get_text_config"):
        raise TypeError(
            f"activations need a model of transformers, or an engine that holds one, not {type(given).__name__}."
        )
    return model, tokenizer if tokenizer is not None else getattr(given, "tokenizer", None)


def _known(texts: Iterator[Any], writer: ActivationWriter, seen: Any) -> Iterator[Any]:
    """The texts behind those that the folder covers."""
    count = 0
    for text in itertools.islice(texts, writer.texts):
        seen.update(_bytes(text))
        count += 1
    if writer.texts and (count < writer.texts or seen.hexdigest() != writer.digest):
        raise ValueError(
            f"{str(writer.folder)!r} holds activations of other texts: give the same ones first, or another folder."
        )
    return texts


def _bytes(text: Any) -> bytes:
    return (text if isinstance(text, str) else ",".join(map(str, text))).encode() + b"\0"


def _ids(text: Any, tokenizer: Any, max_length: int, vocabulary: int) -> list[int]:
    if isinstance(text, str):
        if tokenizer is None:
            raise ValueError("strings need a tokenizer: give tokenizer=..., or token ids.")
        return list(tokenizer(text)["input_ids"])[:max_length]
    try:
        ids = [operator.index(token) for token in text][:max_length]
    except (TypeError, ValueError) as error:
        raise TypeError(f"a text must be a string or token ids, not {text!r:.60}.") from error
    if ids and not 0 <= min(ids) <= max(ids) < vocabulary:
        raise ValueError(f"token ids must be between 0 and {vocabulary - 1}, not {min(ids)} to {max(ids)}.")
    return ids


def _rows(reader: LayerReader, texts: list[list[int]], batch_size: int, skip: int) -> list[Tensor]:
    """Per text [tokens - skip, d], on the CPU."""
    found = [torch.empty(0)] * len(texts)
    order = sorted((at for at in range(len(texts)) if len(texts[at]) > skip), key=lambda at: len(texts[at]))
    for first in range(0, len(order), batch_size):
        chosen = order[first : first + batch_size]
        lengths = torch.tensor([len(texts[at]) for at in chosen])
        mask = torch.arange(int(lengths.max())) < lengths[:, None]
        ids = torch.zeros(mask.shape, dtype=torch.int64)
        ids[mask] = torch.tensor([token for at in chosen for token in texts[at]])
        states = reader(ids, mask.long())
        kept = mask.clone()
        kept[:, :skip] = False
        parts = states[kept.to(states.device)].float().cpu().split((lengths - skip).tolist())
        for at, part in zip(chosen, parts, strict=True):
            found[at] = part
    return [part for part in found if part.numel()]


def _fingerprint(model: Any) -> str:
    """Of the config and a few numbers of every weight."""
    digest = hashlib.sha256(model.config.to_json_string(use_diff=False).encode())
    for name, weight in model.named_parameters():
        digest.update(f"{name} {list(weight.shape)} {weight.flatten()[:4].tolist()}".encode())
    return digest.hexdigest()
