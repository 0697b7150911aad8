"""Encoded documents: as tensors to read, and as files to keep.

What is kept of a vector is W_1 y, of the bottleneck's width b (ARC-Encoder, arXiv 2510.20535: a smaller b and product
quantisation make a store of documents small). <Cont> is the same behind every document and is not kept.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from szilard.compression.arc_encoder.model import ArcModel
from szilard.compression.arc_encoder.product_quantisation import ProductQuantiser
from szilard.options import check_choice

_FORMAT = "szilard.arc-encoder.documents"


class EncodedDocuments(Sequence[Tensor]):
    """A list of [m_i + 1, d] tensors: the vectors of documents for one decoder, <Cont> behind each.

    Args:
        inner: W_1 y of all documents behind one another, [sum m_i, b].
        counts: m_i.
        model: the encoder that they are of.
        decoder: whose W_2 and <Cont> they are read with.

    Attributes:
        inner, counts, model, decoder: as given.
    """

    def __init__(self, inner: Tensor, counts: Sequence[int], model: ArcModel, decoder: str) -> None:
        self.inner, self.counts, self.model, self.decoder = inner, list(counts), model, decoder
        self._starts = [0]
        for count in self.counts:
            self._starts.append(self._starts[-1] + count)

    def __len__(self) -> int:
        return len(self.counts)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        side: Any = self.model.sides[self.decoder]
        weight = side.up.weight
        rows = self.inner[self._starts[place] : self._starts[place + 1]].to(weight.device, weight.dtype)
        if self.model.decoders[self.decoder]["specials"]:
            rows = torch.cat([rows, side.down(side.cont)[None]])
        return side.up(rows).detach()

    def __iter__(self) -> Iterator[Tensor]:
        return (self[index] for index in range(len(self)))

    def save(self, file: str | Path, *, storage: str = "float16", parts: int | None = None, seed: int = 0) -> int:
        """Write them to one file of safetensors, whole or not at all.

        Args:
            file: its name; a file of that name is replaced.
            storage: "float16", "float32", or "pq": product quantisation, one byte for each of `parts` stretches of a
                vector (needs scipy).
            parts: with "pq"; None: a stretch for every 8 numbers.
            seed: of the k-means with "pq".

        Returns:
            Bytes of the vectors in it (with "pq", codes and code books).

        Raises:
            ValueError: a number beyond float16, an unusable `parts`, or scipy is missing.
        """
        check_choice("storage", storage, ("float16", "float32", "pq"))
        header = {
            "format": _FORMAT,
            "storage": storage,
            "decoder": self.decoder,
            "side": self.model.side_fingerprint(self.decoder),
            "method": self.model.slug,
        }
        inner = self.inner.detach().float().cpu()
        if storage == "pq":
            quantiser, codes = ProductQuantiser.fitted(inner, parts, seed=seed)
            kept = {"codes": codes, "books": quantiser.books.half()}
        else:
            if storage == "float16" and bool((inner.abs() > torch.finfo(torch.float16).max).any()):
                raise ValueError("a number is beyond what float16 holds: take storage='float32'.")
            kept = {"vectors": inner.half() if storage == "float16" else inner}
        size = sum(tensor.numel() * tensor.element_size() for tensor in kept.values())
        kept["counts"] = torch.tensor(self.counts, dtype=torch.int32)
        file = Path(file)
        file.parent.mkdir(parents=True, exist_ok=True)
        scratch = file.with_name(f".{file.name}.{os.getpid()}.tmp")
        try:
            save_file(kept, scratch, metadata={"szilard": json.dumps(header)})
            os.replace(scratch, file)
        finally:
            scratch.unlink(missing_ok=True)
        return size

    @classmethod
    def load(cls, file: str | Path, model: ArcModel) -> EncodedDocuments:
        """The documents in a file.

        Raises:
            ValueError: no such file, another kind of file, or documents of another encoder.
        """
        if not Path(file).is_file():
            raise ValueError(f"there is no file {str(file)!r}.")
        try:
            with safe_open(file, "pt") as opened:
                header = json.loads((opened.metadata() or {}).get("szilard", "{}"))
                tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, ValueError) as error:
            raise ValueError(f"{str(file)!r} is no whole file of safetensors.") from error
        if header.get("format") != _FORMAT:
            raise ValueError(f"{str(file)!r} holds no encoded documents.")
        decoder = header["decoder"]
        if decoder not in model.decoders or header["side"] != model.side_fingerprint(decoder):
            raise ValueError(
                f"{str(file)!r} holds documents of another encoder (for {decoder}): encode them again with this one."
            )
        counts = tensors["counts"].tolist()
        if header["storage"] == "pq":
            inner = ProductQuantiser(tensors["books"].float()).decoded(tensors["codes"])
        else:
            inner = tensors["vectors"].float()
        return cls(inner, counts, model, decoder)
