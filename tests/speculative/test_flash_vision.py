"""Flash on an image-text model: its own answers as data, pictures as latents, the same text as without."""

import importlib.util
import json

import pytest

import szilard
from szilard.speculative.draft_config import FlashConfig
from szilard.speculative.draft_training import train_heads
from szilard.speculative.flash.training import FlashObjective

pytestmark = pytest.mark.skipif(importlib.util.find_spec("szilard_zoo") is None, reason="the zoo is not installed")


@pytest.mark.parametrize(("latents", "compression"), [(8, "latents"), (0, "latents"), (4, "mean")])
def test_a_drafter_for_pictures_learns_and_leaves_the_answers_as_they_are(tmp_path, latents, compression):
    from szilard_zoo import scenes

    vlm = szilard.load("zoo/tiny-vlm")
    samples = list(scenes.dataset("heldout", 12, seed=3, kinds=("existence", "count", "colour", "position")))
    lines = []
    for index, sample in enumerate(samples):
        scenes.render(sample.scene).save(tmp_path / f"{index}.png")
        lines.append({"image": f"{index}.png", "prompt": sample.question, "answer": sample.answer})
    data = tmp_path / "scenes.jsonl"
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = FlashConfig(
        draft_tokens=3,
        latents=latents,
        compression=compression,
        steps=12,
        batch_size=4,
        learning_rate=1e-3,
        log_every=4,
        save_every=12,
        window=512,
    )
    metrics = train_heads(FlashObjective, vlm, data, config, tmp_path / "out")
    assert metrics["positions"] > 0
    method = szilard.Flash.from_pretrained(tmp_path / "out")
    questions = [samples[0].question, "What is in the picture?", samples[2].question]
    pictures = [[str(tmp_path / f"{index}.png")] for index in (0, 1, 2)]
    plain = vlm.generate(questions, images=pictures, max_new_tokens=24)
    drafted = vlm.generate(questions, images=pictures, method=method, max_new_tokens=24)
    assert [one.tokens for one in drafted] == [one.tokens for one in plain]
    image = sum(
        ids.count(vlm.model.config.image_token_id)
        for ids in vlm.encode(questions, images=pictures)["input_ids"].tolist()
    )
    assert drafted[0].cost.counters["draft_slots_saved"] == image - 3 * latents
