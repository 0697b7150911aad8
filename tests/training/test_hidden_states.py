"""The cache of hidden states: two trainings that share it."""

import threading

import numpy as np

from szilard.engines import TransformersEngine
from szilard.training.corpus import Example
from szilard.training.hidden_states import cache_hidden_states
from szilard.training.target import Target
from tests.conftest import tiny_model, tiny_tokenizer


def test_trainings_that_share_a_cache_wait_for_each_other(tmp_path):
    target = Target(TransformersEngine(tiny_model("llama"), tiny_tokenizer()))
    examples = [Example(tuple(range(3 + n, 23 + n)), (True,) * 20) for n in range(70)]
    alone = cache_hidden_states(target, examples, tmp_path / "alone")
    written: list[int] = []
    found = []

    def fill():
        cache = cache_hidden_states(
            target, examples, tmp_path / "shared", progress=lambda done, total: written.append(done)
        )
        found.append(np.array(cache.hidden))

    threads = [threading.Thread(target=fill) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert written == [64, 70]  # the second found it filled
    assert np.array_equal(found[0], found[1]) and np.allclose(found[0], np.array(alone.hidden), atol=1e-2)
