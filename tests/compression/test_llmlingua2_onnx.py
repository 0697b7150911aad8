"""The classifier of LLMLingua-2 in ONNX Runtime."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from szilard.compression.llmlingua2 import onnx_backend
from szilard.compression.llmlingua2.classifier import KeepClassifier
from szilard.compression.llmlingua2.method import LlmLingua2
from tests.compression import tiny_classifiers as tiny

needs_onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in onnx_backend.PACKAGES),
    reason="ONNX Runtime is not installed",
)


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SZILARD_CACHE", str(tmp_path / "cache"))


@needs_onnx
@pytest.mark.parametrize("family", ["bert", pytest.param("xlm-roberta", marks=pytest.mark.slow)])
def test_onnx_gives_the_same_probabilities_and_keeps_its_file(family, tmp_path):
    model, tokenizer = {
        "bert": (tiny.bert_classifier, tiny.bert_tokenizer),
        "xlm-roberta": (tiny.xlm_roberta_classifier, tiny.xlm_roberta_tokenizer),
    }[family]
    classifier = KeepClassifier(model(), tokenizer(), family)
    results = {}
    for backend in ("torch", "onnx"):
        results[backend] = LlmLingua2(checkpoint=classifier, backend=backend).compress(list(tiny.PROMPTS), 0.4)
    for one, other in zip(results["torch"], results["onnx"], strict=True):
        np.testing.assert_allclose([w.score for w in one.words], [w.score for w in other.words], atol=1e-5)
        assert one.text == other.text
    (folder,) = (tmp_path / "cache" / "onnx").iterdir()
    written = (folder / "model.onnx").stat().st_mtime_ns
    again = KeepClassifier(model(), tokenizer(), family)
    LlmLingua2(checkpoint=again, backend="onnx").compress(list(tiny.PROMPTS), 0.4)
    assert (folder / "model.onnx").stat().st_mtime_ns == written, "exported once"


def test_without_onnx_runtime_the_backend_is_refused_with_the_line_that_installs_it(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if "onnx" in name else find(name, *rest))
    classifier = KeepClassifier(tiny.bert_classifier(), tiny.bert_tokenizer())
    with pytest.raises(ValueError, match="pip install onnx onnxscript onnxruntime"):
        LlmLingua2(checkpoint=classifier, backend="onnx").compress([tiny.PROMPTS[0]], 0.5)
