"""Product quantisation: a vector as one byte for each of its stretches.

Jegou, Douze, Schmid, "Product quantization for nearest neighbor search", TPAMI 2011. Each stretch of the vectors has a
code book of up to 256 entries, found by k-means; kept are the numbers of the nearest entries.
"""

from __future__ import annotations

import importlib.util
import warnings

import numpy as np
import torch
from torch import Tensor

from szilard.options import check_number

_ENTRIES = 256  # what a byte can tell apart
_SAMPLE = 65536  # vectors that a code book is learned from, at most


class ProductQuantiser:
    """Code books of the stretches of a vector.

    Args:
        books: float32 [parts, entries, width of a stretch].
    """

    def __init__(self, books: Tensor) -> None:
        self.books = books

    @classmethod
    def fitted(cls, vectors: Tensor, parts: int | None = None, *, seed: int = 0) -> tuple[ProductQuantiser, Tensor]:
        """Code books for vectors, and the vectors in codes.

        Args:
            vectors: float32 [n, width].
            parts: stretches, a divisor of the width; None: of 8 numbers each, or of as many below that as divide it.
            seed: of the k-means and of the sample it learns from.

        Returns:
            The quantiser, and codes uint8 [n, parts].

        Raises:
            ValueError: no vectors, parts that do not divide the width, or scipy is missing.
        """
        check_number("parts", parts, low=1, integer=True, optional=True)
        if importlib.util.find_spec("scipy") is None:
            raise ValueError("product quantisation needs scipy: pip install scipy, or take storage='float16'.")
        from scipy.cluster.vq import kmeans2

        count, width = vectors.shape
        if not count:
            raise ValueError("there are no vectors to quantise.")
        if parts is None:
            parts = width // next(size for size in range(8, 0, -1) if width % size == 0)
        if width % parts:
            raise ValueError(f"parts={parts} must divide the vectors' width of {width}.")
        rng = np.random.default_rng(seed)
        data = vectors.reshape(count, parts, width // parts).numpy()
        chosen = data if count <= _SAMPLE else data[rng.choice(count, _SAMPLE, replace=False)]
        entries = min(_ENTRIES, count)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an entry that nothing is near to stays where it began, which does no harm
            found = [kmeans2(chosen[:, part], entries, minit="points", rng=rng)[0] for part in range(parts)]
        books = np.stack(found)
        made = cls(torch.from_numpy(books.astype(np.float32)).half().float())  # what the file will give back
        return made, made.codes(vectors)

    def codes(self, vectors: Tensor) -> Tensor:
        """The nearest entry of every stretch, [n, width] -> uint8 [n, parts]."""
        parts, _, size = self.books.shape
        stretches = vectors.reshape(len(vectors), parts, size).transpose(0, 1)  # [parts, n, size]
        found = [torch.cdist(piece, self.books).argmin(-1).T for piece in stretches.split(4096, dim=1)]
        return torch.cat(found).to(torch.uint8)

    def decoded(self, codes: Tensor) -> Tensor:
        """The entries behind codes, uint8 [n, parts] -> [n, width]."""
        parts = torch.arange(len(self.books))
        return self.books[parts, codes.long()].flatten(1)
