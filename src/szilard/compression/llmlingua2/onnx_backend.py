"""The classifier in ONNX Runtime: exported once for each set of weights, kept in the cache folder."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from szilard.engines.cache import build_folder, cache_folder

if TYPE_CHECKING:
    from szilard.compression.llmlingua2.classifier import KeepClassifier

_FILE = "model.onnx"
_OPSET = 18
PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def check_installed() -> None:
    """Refuse before any work where a package is missing.

    Raises:
        ValueError: with the line that installs it.
    """
    if missing := [name for name in PACKAGES if importlib.util.find_spec(name) is None]:
        raise ValueError(f"backend='onnx' needs {', '.join(missing)}: pip install {' '.join(PACKAGES)}")


class OnnxEncoder:
    """[batch, length] ids and mask -> [batch, length] keep probabilities."""

    def __init__(self, file: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        providers = [name for name in _PROVIDERS if name in onnxruntime.get_available_providers()]
        self.session = onnxruntime.InferenceSession(str(file), options, providers=providers)

    @classmethod
    def of(cls, classifier: KeepClassifier) -> OnnxEncoder:
        """The classifier's weights, exported where they are not in the cache folder yet."""
        check_installed()
        folder = cache_folder() / "onnx" / f"llmlingua2-{classifier.fingerprint}"
        if not (folder / _FILE).is_file():
            with build_folder(folder) as scratch:
                export(classifier, scratch / _FILE)
        return cls(folder / _FILE)

    def __call__(self, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
        (found,) = self.session.run(None, {"input_ids": ids, "attention_mask": mask})
        return found


def export(classifier: KeepClassifier, file: Path) -> None:
    """Write the classifier as an ONNX model with batch and length left open."""
    wrapped = _KeepProbability(classifier.model).eval()
    device = classifier.model.device
    ids = torch.ones(2, 9, dtype=torch.int64, device=device)
    mask = torch.ones_like(ids)
    mask[1, 7:] = 0
    sizes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", max=classifier.longest)}
    with _quiet():  # with gradients on, linear layers are PyTorch's own, which the export knows
        torch.onnx.export(
            wrapped,
            (ids, mask),
            str(file),
            input_names=["input_ids", "attention_mask"],
            output_names=["keep_probability"],
            dynamic_shapes=(sizes, sizes),
            opset_version=_OPSET,
            dynamo=True,
            verbose=False,
        )
    if not os.path.isfile(file):
        raise ValueError(f"the classifier {classifier.name!r} cannot be exported to ONNX; use backend='torch'.")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    nowhere, logger = io.StringIO(), logging.getLogger("torch.onnx")
    before, logger.disabled = logger.disabled, True
    with warnings.catch_warnings(), contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logger.disabled = before


class _KeepProbability(torch.nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        logits = self.model(input_ids=input_ids, attention_mask=attention_mask).logits
        return logits.float().softmax(-1)[..., 1]


_PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")
