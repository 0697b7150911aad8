"""On the embedded SmolLM2-135M: drafts leave the text of eight ragged prompts as it is, stop strings included."""

from __future__ import annotations

import pytest

import szilard
from szilard.speculative.trigram_table import TrigramTable

pytestmark = pytest.mark.embedded
PROMPTS = [
    "Name two metals.",
    "Repeat this sentence three times: The cat sat on the mat and looked at the cat.",
    "Hi",
    "What is 12 times 7? Think step by step.",
    "Write the numbers from 1 to 12, separated by commas.",
    "Why is the sky blue?",
    "List the days of the week, then list them again in reverse order, one per line, without any other words.",
    "Is water wet?",
]
TIE = 1e-3  # in float32, logits nearer than that may change places when the same tokens are read in other groups


def methods(engine):
    """With fixed budgets: what this machine was measured to be is none of the test's business."""
    table = TrigramTable.empty(engine.vocab_size)
    return {
        "prompt-lookup": szilard.PromptLookup(max_ngram=1, budget="fixed"),
        "aded": szilard.Aded(table, observe_prompt=True, budget="fixed"),
        "draft-model": szilard.DraftModel(draft=engine, draft_tokens=3, budget="fixed"),
    }


@pytest.mark.parametrize("rows", [1, pytest.param(8, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["prompt-lookup", "aded", "draft-model"])
def test_the_text_is_that_of_greedy_decoding(embedded, name, rows):
    prompts = PROMPTS[-rows:]
    options = {"max_new_tokens": 28, "stop": ["7", "."], "trace": False}
    plain = embedded.generate(prompts, **options)
    drafted = embedded.generate(prompts, methods(embedded)[name], **options)
    for prompt, expected, found in zip(prompts, plain, drafted, strict=True):
        if list(found.tokens) != list(expected.tokens):
            assert _tied(embedded, prompt, expected.tokens, found.tokens)
        else:
            assert (found.text, found.finish_reason) == (expected.text, expected.finish_reason)
    assert rows == 1 or drafted[0].cost.counters["accepted"] > 0


def _tied(engine, prompt, expected, found):
    """Whether the first difference lies between logits as good as equal."""
    place = next(index for index, (a, b) in enumerate(zip(expected, found, strict=False)) if a != b)
    ids = engine.encode([prompt])["input_ids"]
    ids = ids.new_tensor([[*ids[0].tolist(), *expected[:place]]])
    logits = engine.model(ids).logits[0, -1]
    return float((logits[expected[place]] - logits[found[place]]).abs()) < TIE
