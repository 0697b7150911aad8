"""EntropyPrune on image-text models: the zoo's LLaVA, and a random Qwen2.5-VL with positions on three axes."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from transformers import DynamicCache

import szilard
from szilard.analysis.visual_entropy import find_collapse_layer, visual_entropy_profile
from tests.attention.test_entropy_prune import dropped_columns, hidden_from

zoo = pytest.mark.skipif(importlib.util.find_spec("szilard_zoo") is None, reason="the zoo is not installed")


@pytest.fixture(scope="module")
def vlm():
    return szilard.load("zoo/tiny-vlm")


@pytest.fixture(scope="module")
def asked():
    """Questions of different lengths, each with its picture."""
    from szilard_zoo import scenes

    samples = list(scenes.dataset("heldout", 4, seed=3, kinds=("existence", "count", "colour", "position")))
    return [sample.question for sample in samples], [[sample.image] for sample in samples]


@zoo
def test_each_picture_of_a_batch_is_pruned_as_alone_and_all_text_stays(vlm, asked):
    method = szilard.EntropyPrune(layer=1, keep=16)
    inputs = vlm.encode(asked[0], images=asked[1])
    with torch.no_grad(), method(vlm.model) as run:
        vlm.model(**inputs, use_cache=True)
    for row, (question, picture) in enumerate(zip(*asked, strict=True)):
        kept, mask = run.kept[row], inputs["attention_mask"][row].bool()
        ids = inputs["input_ids"][row][mask]
        text = (ids != vlm.model.config.image_token_id).nonzero()[:, 0]
        assert set(text.tolist()) <= set(kept.tolist()) and len(kept) == len(text) + 16
        assert torch.equal(kept, kept.sort().values)
        with torch.no_grad(), method(vlm.model) as alone:
            vlm.model(**vlm.encode([question], images=[picture]), use_cache=True)
        assert torch.equal(alone.kept_visual[0], run.kept_visual[row])


@zoo
def test_answers_of_a_batch_are_those_given_alone_also_when_drafted(vlm, asked):
    settings = {"attention": szilard.EntropyPrune(layer=1, keep=0.5), "max_new_tokens": 24}
    together = vlm.generate(asked[0], images=asked[1], **settings)
    drafted = vlm.generate(asked[0], "prompt-lookup", images=asked[1], **settings)
    first = vlm.generate(asked[0][0], images=asked[1][0], **settings)
    assert together[0].text == first.text
    assert [result.tokens for result in together] == [result.tokens for result in drafted]


@zoo
def test_the_neutral_setting_answers_as_the_model_does(vlm, asked):
    plain = vlm.generate(asked[0], images=asked[1], max_new_tokens=12)
    neutral = vlm.generate(asked[0], images=asked[1], max_new_tokens=12, attention=szilard.EntropyPrune.neutral())
    assert [result.tokens for result in plain] == [result.tokens for result in neutral]


@zoo
def test_a_prompt_without_a_picture_is_read_as_it_is(vlm):
    under = szilard.EntropyPrune(layer=1, keep=4)
    result = vlm.generate("is there a red circle ?", max_new_tokens=4, attention=under)
    assert "prunable_tokens" not in result.cost.counters
    with under(vlm.model), pytest.raises(ValueError, match="came as embeddings"):
        vlm.model(inputs_embeds=torch.zeros(1, 4, 128), use_cache=True)


@zoo
def test_the_command_line_finds_the_collapse_layer(vlm, asked, tmp_path, capsys):
    from szilard.cli.main import main

    for index, picture in enumerate(asked[1]):
        picture[0].save(tmp_path / f"{index}.png")
    output = tmp_path / "profile.json"
    command = ["analyze", "visual-entropy", "--images", str(tmp_path), "--model", "zoo/tiny-vlm"]
    assert main([*command, "--output", str(output)]) == 0
    assert "collapse layer: K = 1" in capsys.readouterr().out
    with szilard.EntropyPrune(layer=str(output))(vlm.model) as run:
        assert run.after == 1
    assert main(["analyze", "visual-entropy", "--images", str(tmp_path / "no"), "--model", "zoo/tiny-vlm"]) == 2
    assert "there is no folder or file" in capsys.readouterr().err


@zoo
def test_the_profile_is_the_matrix_entropy_of_the_image_tokens_queries(vlm, asked):
    from szilard.information import matrix_entropy

    model, inputs = vlm.model, vlm.encode(asked[0][:1], images=asked[1][:1])
    found = visual_entropy_profile(model, [inputs], states="key")
    cache = DynamicCache(config=model.config.get_text_config())
    with torch.no_grad():
        model(**inputs, past_key_values=cache)
    image = inputs["input_ids"][0] == model.config.image_token_id
    for layer, value in zip(cache.layers, found.entropy, strict=True):
        keys = layer.keys[0, :, image].transpose(0, 1).flatten(1)
        assert float(matrix_entropy(keys)) == pytest.approx(value, abs=1e-4)
    assert found.pictures == 1 and found.tokens == int(image.sum())


def test_the_collapse_layer_is_before_the_sharpest_early_fall():
    assert find_collapse_layer([3.9, 4.0, 3.3, 3.3, 3.4, 3.3, 1.0, 1.0, 1.0]) == 2
    assert find_collapse_layer([3.9, 4.0, 3.3, 3.3, 3.4, 3.3, 1.0, 1.0, 1.0], search=(0, 8)) == 6
    for bad in ([1.0], [1.0, float("nan")]):
        with pytest.raises(ValueError, match="at least two layers"):
            find_collapse_layer(bad)


@pytest.fixture(scope="module")
def qwen():
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    torch.manual_seed(3)
    text = {
        "vocab_size": 97,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "initializer_range": 0.4,
        "bos_token_id": 2,
        "eos_token_id": 1,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]},
    }
    vision = {
        "depth": 1,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_heads": 2,
        "out_hidden_size": 32,
        "patch_size": 4,
        "fullatt_block_indexes": [0],
        "window_size": 16,
        "initializer_range": 0.4,
    }
    config = Qwen2_5_VLConfig(
        text_config=text, vision_config=vision, image_token_id=5, video_token_id=6, vision_start_token_id=7
    )
    return Qwen2_5_VLForConditionalGeneration(config).double().eval()


def test_positions_on_three_axes_stay_those_of_the_whole_prompt(qwen):
    generator = torch.Generator().manual_seed(0)
    ids = torch.tensor([[10, 11, 7, *[5] * 9, 12, 13, 14]])  # 6 x 6 patches, merged to 3 x 3
    pixels = torch.randn(36, 3 * 2 * 16, generator=generator, dtype=torch.float64)
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values": pixels,
        "image_grid_thw": torch.tensor([[1, 6, 6]]),
        "mm_token_type_ids": (ids == 5).int(),
    }
    settings = {"max_new_tokens": 6, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    with szilard.EntropyPrune(layer=1, keep=4)(qwen) as run:
        found = qwen.generate(**inputs, **settings)
    dropped = dropped_columns(run, inputs["attention_mask"], found.sequences.shape[1])
    assert int(dropped.sum()) == 5 and bool((found.sequences[dropped] == 5).all())
    longer = torch.cat([inputs["mm_token_type_ids"], torch.zeros(1, 5, dtype=torch.int)], dim=1)
    whole = inputs | {"input_ids": found.sequences[:, :-1], "mm_token_type_ids": longer}
    whole["attention_mask"] = torch.ones_like(whole["input_ids"])
    with torch.no_grad(), hidden_from(qwen, 1, dropped[:, :-1]):
        wanted = qwen(**whole).logits[:, -6:]
    assert torch.allclose(torch.stack(found.logits, dim=1), wanted.float(), atol=1e-5)  # `generate` rounds them


def test_layers_that_picture_features_are_added_to_run_before_tokens_leave(qwen):
    qwen.config.vision_config.deepstack_visual_indexes = [0, 1]
    try:
        with pytest.raises(ValueError, match="set layer to 2"), szilard.EntropyPrune(layer=1)(qwen):
            pass
    finally:
        del qwen.config.vision_config.deepstack_visual_indexes
