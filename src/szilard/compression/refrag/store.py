"""Chunk embeddings of documents, made once and read for every question."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from szilard.compression.refrag.chunks import Chunks

_FORMAT = "szilard.refrag.chunks"
_NAMES = ("embeddings", "ids", "lengths", "passages", "encoder_tokens", "texts", "text_bytes")


@dataclass(frozen=True)
class ChunkStore:
    """The chunks of some passages.

    Attributes:
        chunks: tokens and texts.
        embeddings: c, float32 [L, d_e].
        passages: which passage each chunk is of, ascending from 0, int64 [L].
        encoder_tokens: that the encoder reads of each chunk, int64 [L].
        encoder: fingerprint of the encoder (`RefragParts.encoder_fingerprint`).
        fresh: which chunks were encoded when this store was made (of equal ones the first), bool [L]; none of a loaded
            one's.
    """

    chunks: Chunks
    embeddings: torch.Tensor
    passages: torch.Tensor
    encoder_tokens: torch.Tensor
    encoder: str
    fresh: torch.Tensor

    def __len__(self) -> int:
        return len(self.chunks)

    @property
    def fresh_tokens(self) -> int:
        """Encoder tokens that making this store took."""
        return int(self.encoder_tokens[self.fresh].sum())

    @property
    def count(self) -> int:
        """Passages."""
        return int(self.passages[-1]) + 1 if len(self) else 0

    def passage(self, index: int) -> ChunkStore:
        """One passage.

        Raises:
            ValueError: there are fewer.
        """
        if not 0 <= index < self.count:
            raise ValueError(f"there is no passage {index}: the store has {self.count}, counted from 0.")
        here = self.passages == index
        tokens = torch.repeat_interleave(here, self.chunks.lengths)
        texts = tuple(itertools.compress(self.chunks.texts, here.tolist()))
        return ChunkStore(
            Chunks(self.chunks.ids[tokens], self.chunks.lengths[here], texts),
            self.embeddings[here],
            torch.zeros_like(self.passages[here]),
            self.encoder_tokens[here],
            self.encoder,
            self.fresh[here],
        )

    @classmethod
    def joined(cls, stores: Sequence[ChunkStore]) -> ChunkStore:
        """The passages of several stores as one.

        Raises:
            ValueError: none, or of different encoders.
        """
        if not stores:
            raise ValueError("there is no store to join: give at least one.")
        if len(made := {store.encoder for store in stores}) > 1:
            raise ValueError(f"stores of different encoders ({', '.join(sorted(made))}) cannot be joined.")
        firsts = itertools.accumulate((store.count for store in stores[:-1]), initial=0)
        return cls(
            Chunks(
                torch.cat([store.chunks.ids for store in stores]),
                torch.cat([store.chunks.lengths for store in stores]),
                tuple(text for store in stores for text in store.chunks.texts),
            ),
            torch.cat([store.embeddings for store in stores]),
            torch.cat([store.passages + first for store, first in zip(stores, firsts, strict=True)]),
            torch.cat([store.encoder_tokens for store in stores]),
            stores[0].encoder,
            torch.cat([store.fresh for store in stores]),
        )

    def save(self, file: str | Path) -> None:
        """Write a safetensors file, whole or not at all, with a checksum of all that is in it."""
        file = Path(file)
        encoded = [text.encode() for text in self.chunks.texts]
        tensors = {
            "embeddings": self.embeddings.detach().float().cpu(),
            "ids": self.chunks.ids.cpu(),
            "lengths": self.chunks.lengths.cpu(),
            "passages": self.passages.cpu(),
            "encoder_tokens": self.encoder_tokens.cpu(),
            "texts": torch.frombuffer(bytearray(b"".join(encoded) or b"\0"), dtype=torch.uint8),
            "text_bytes": torch.tensor([len(text) for text in encoded], dtype=torch.int64),
        }
        tensors = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
        note = {"format": _FORMAT, "encoder": self.encoder, "checksum": _checksum(tensors, self.encoder)}
        file.parent.mkdir(parents=True, exist_ok=True)
        scratch = file.with_name(f".{file.name}.{os.getpid()}.tmp")
        try:
            save_file(tensors, scratch, metadata=note)
            os.replace(scratch, file)
        finally:
            scratch.unlink(missing_ok=True)

    @classmethod
    def load(cls, file: str | Path) -> ChunkStore:
        """Read a file that `save` wrote.

        Raises:
            ValueError: there is none, it is something else, or it is damaged.
        """
        file = Path(file)
        if not file.is_file():
            raise ValueError(f"there is no chunk store {str(file)!r}: reader.encode(passages).save(file) writes one.")
        damaged = f"the chunk store {str(file)!r} is damaged: encode its passages again."
        try:
            with safe_open(file, "pt") as stored:
                note = stored.metadata() or {}
                if note.get("format") != _FORMAT:
                    raise ValueError(f"{str(file)!r} is no chunk store: reader.encode(passages).save(file) writes one.")
                tensors = {name: stored.get_tensor(name) for name in _NAMES}
        except (SafetensorError, OSError, json.JSONDecodeError) as error:
            raise ValueError(damaged) from error
        encoder = note.get("encoder", "")
        if note.get("checksum") != _checksum(tensors, encoder):
            raise ValueError(damaged)
        data = bytes(tensors["texts"].tolist())
        ends = list(itertools.accumulate(tensors["text_bytes"].tolist(), initial=0))
        texts = tuple(data[a:b].decode() for a, b in itertools.pairwise(ends))
        return cls(
            Chunks(tensors["ids"], tensors["lengths"], texts),
            tensors["embeddings"],
            tensors["passages"],
            tensors["encoder_tokens"],
            encoder,
            torch.zeros_like(tensors["passages"], dtype=torch.bool),
        )

    def cached(self) -> ChunkStore:
        """The store as it is when nothing had to be encoded for it."""
        return replace(self, fresh=torch.zeros_like(self.fresh))


def _checksum(tensors: dict[str, torch.Tensor], encoder: str) -> str:
    found = hashlib.sha256(f"{_FORMAT} {encoder}".encode())
    for name in _NAMES:
        tensor = tensors[name]
        found.update(f"{name} {list(tensor.shape)} {tensor.dtype}".encode() + tensor.numpy().tobytes())
    return found.hexdigest()
