"""Cache and attention methods on the embedded model: nothing changes where everything is kept, and what is kept is less
where it is not."""

from __future__ import annotations

import pytest

import szilard

pytestmark = pytest.mark.embedded
SLUGS = tuple(
    slug for slug, entry in szilard.methods().items() if entry.kind == "attention" and "denoising" not in entry.needs
)
PROMPTS = (
    "Name three colours.",
    "A train travels 60 miles in 1.5 hours. What is its average speed in miles per hour?",
    "Why is the sky blue?",
    "Say hello in French, in German and in Spanish, each on a line of its own.",
)


@pytest.fixture(scope="module")
def plain(embedded):
    return [result.tokens for result in embedded.generate(list(PROMPTS), max_new_tokens=8)]


@pytest.mark.parametrize("slug", SLUGS)
def test_the_neutral_setting_writes_the_plain_text(embedded, plain, slug):
    neutral = szilard.methods()[slug].neutral()
    together = embedded.generate(list(PROMPTS), attention=neutral, max_new_tokens=8)
    assert [result.tokens for result in together] == plain
    assert together[0].cost.counters.get("kv_held_share", 1.0) == 1.0


@pytest.mark.parametrize("slug", ["snapkv", "keydiff", "streaming-llm"])
def test_a_tenth_of_the_slots_is_a_tenth_of_the_memory(embedded, slug):
    prompt = " ".join(PROMPTS * 12)
    method = szilard.make_attention(slug, {"budget": 0.1} | ({"window": 8} if slug == "snapkv" else {"recent": 8}))
    with method(embedded.model) as run:
        out = embedded.model.generate(
            **embedded.encode([prompt]), max_new_tokens=2, do_sample=False, return_dict_in_generate=True
        )
    layers = out.past_key_values.layers
    stored = sum(layer.keys.shape[2] for layer in layers) / len(layers)
    assert stored == pytest.approx(0.1 * layers[0].seen, rel=0.02)
    assert run.summary()["kv_held_share"] == pytest.approx(0.1, rel=0.05)
