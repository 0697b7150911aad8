"""VL-JEPA's model: what it predicts, and what it does with that."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from szilard.information.contrastive import info_nce, mean_pairwise_cosine
from szilard.representation.vl_jepa.model import VLJEPA, LearnableTemperature
from szilard.representation.vl_jepa.objective import Collator, VLJEPAObjective, optimizer_param_groups
from szilard.representation.vl_jepa.ranking import triplet_accuracy
from szilard.representation.vl_jepa.scenes import Example
from tests.representation.vl_jepa.small import WIDTH, pictures, small

QUERIES = ["what colour is the heart ?", "how many shapes are there ?"]


@torch.no_grad()
def test_embeddings_have_length_one_and_a_row_is_what_it_is_alone() -> None:
    model, pixels = small(), pictures(2)
    both = model.predict(pixels, QUERIES)
    torch.testing.assert_close(both.norm(dim=1), torch.ones(2))
    for row in range(2):  # the longer question pads the shorter one
        torch.testing.assert_close(model.predict(pixels[row : row + 1], QUERIES[row]), both[row : row + 1])
    texts = model.encode_text(["red", "a small red heart in the top left"])
    torch.testing.assert_close(model.encode_text(["red"]), texts[:1])
    torch.testing.assert_close(texts.norm(dim=1), torch.ones(2))


@torch.no_grad()
@pytest.mark.parametrize("bidirectional", [True, False])
def test_padding_changes_nothing(bidirectional: bool) -> None:
    model, visual = small(bidirectional=bidirectional), torch.randn(3, 4, WIDTH)
    ids = torch.randint(4, 60, (3, 5))
    plain = model.predict(visual, ids)
    padded = F.pad(ids, (0, 4), value=model.query_tokenizer.pad_token_id)
    mask = torch.arange(9) < 5
    torch.testing.assert_close(model.predict(visual, padded, mask.expand(3, -1)), plain)
    padded[:, 5:] = 33  # whatever lies there
    torch.testing.assert_close(model.predict(visual, padded, mask.expand(3, -1)), plain)
    assert not torch.allclose(model.predict(visual, padded), plain, atol=1e-3)
    answers = model.encode_text(ids)
    torch.testing.assert_close(model.encode_text(padded, mask.expand(3, -1)), answers)


@torch.no_grad()
def test_visual_states_see_the_query_unless_the_mask_is_causal() -> None:
    visual, one, other = torch.randn(1, 4, WIDTH), torch.tensor([[5, 9, 20]]), torch.tensor([[20, 5, 9]])
    for bidirectional in (True, False):
        predictor = small(bidirectional=bidirectional).predictor
        states = [predictor.states(visual, ids)[0][:, :4] for ids in (one, other)]
        assert torch.allclose(*states, atol=1e-6) == (not bidirectional)
    predictor = small().predictor
    changed = visual.clone()
    changed[:, 3] += 1
    first = [predictor.states(seen)[0][:, 0] for seen in (visual, changed)]
    assert not torch.allclose(*first, atol=1e-5)  # nor is a later patch hidden from an earlier one


@torch.no_grad()
def test_the_mean_is_over_visual_and_query_positions_without_padding() -> None:
    predictor, visual = small().predictor, torch.randn(2, 4, WIDTH)
    ids, mask = torch.tensor([[5, 9, 20], [6, 0, 0]]), torch.tensor([[1, 1, 1], [1, 0, 0]])
    states, valid = predictor.states(visual, ids, mask)
    assert valid.sum(1).tolist() == [7, 5]
    pooled = torch.stack([states[0].mean(0), states[1, :5].mean(0)])
    torch.testing.assert_close(predictor(visual, ids, mask), predictor.output_map(pooled))


@torch.no_grad()
def test_an_empty_query_is_no_query() -> None:
    model, pixels = small(), pictures(2)
    plain = model.predict(pixels)
    torch.testing.assert_close(model.predict(pixels, ""), plain)
    torch.testing.assert_close(model.predict(pixels, ["", "how many do you see ?"])[:1], plain[:1])
    visual = model.encode_visual(pixels)
    torch.testing.assert_close(model.predict(visual), plain)


@torch.no_grad()
def test_labels_answers_and_pictures_are_chosen_by_cosine_whatever_the_length() -> None:
    model, pixels = small(), pictures(3)
    labels = ["red", "green", "blue", "two"]
    predicted, texts = model.predict(pixels), model.encode_text(labels)
    found = model.classify(predicted, labels, top_k=4)
    cosines = predicted @ texts.T
    torch.testing.assert_close(found.scores, cosines.sort(descending=True).values)
    nearest = torch.cdist(predicted, texts).argmin(1)  # of unit vectors the nearest is the same
    assert found.indices[:, 0].tolist() == nearest.tolist()
    assert found.texts is not None and found.texts[0] == [labels[place] for place in found.indices[0]]
    scaled = model.classify(predicted * torch.tensor([[0.01], [5.0], [900.0]]), labels, top_k=4)
    assert torch.equal(scaled.indices, found.indices)
    assert torch.equal(model.vqa(predicted, labels).indices, found.indices[:, :1])
    torch.testing.assert_close(model.score(pixels, [""] * 3, labels), cosines)
    back = model.retrieve(labels, predicted * 7, top_k=3)
    assert back.indices[:, 0].tolist() == cosines.argmax(0).tolist() and back.texts is None


@torch.no_grad()
def test_prompts_are_filled_and_averaged() -> None:
    model, labels = small(), ["red", "green"]
    predicted = model.predict(pictures(2))
    prompts = ["a {} heart", "the number is {}"]
    each = [model.encode_text([one.replace("{}", label) for label in labels]) for one in prompts]
    known = predicted @ F.normalize((each[0] + each[1]) / 2, dim=1).T
    torch.testing.assert_close(model.classify(predicted, labels, prompt=prompts).scores[:, 0], known.max(1).values)


@torch.no_grad()
def test_an_action_is_the_clip_that_is_nearest_to_its_states() -> None:
    model = small()
    before, after = pictures(2, seed=1), pictures(2, seed=2)
    clips = torch.stack([pictures(8, seed=seed).unflatten(0, (2, 4)) for seed in (3, 4, 5)], dim=1)
    clips[:, 2] = torch.stack([before, before, after, after], dim=1)  # the change itself
    found = model.choose_action(before, after, clips)
    assert found.indices[:, 0].tolist() == [2, 2] and found.scores[:, 0].tolist() == pytest.approx([1, 1])
    with pytest.raises(ValueError, match="before and after must be"):
        model.choose_action(before, after, clips[:, 0])


def test_a_batch_of_texts_gives_the_loss_between_its_embeddings() -> None:
    model, pixels = small(), pictures(3)
    answers = ["it is red", "two", "it is red"]
    found = model(pixels, answers, ["", QUERIES[1], QUERIES[0]])
    known = info_nce(found.predicted, found.target, 1 / 0.07, groups=torch.tensor([0, 1, 0]))
    torch.testing.assert_close(found.loss, known)
    batch = Collator(model)([Example(one, "", text) for one, text in zip(pixels, answers, strict=True)])
    objective = VLJEPAObjective(model, learning_rate=1.0)
    torch.testing.assert_close(objective(**batch)["loss"], model(pixels, answers).loss)
    found.loss.backward()
    still = {name for name, weight in model.named_parameters() if weight.grad is None or not bool(weight.grad.any())}
    assert still and all(name.startswith("x_encoder.") or "word_embeddings" not in name for name in still)
    assert all(weight.grad is None for weight in model.x_encoder.parameters())
    for part in ("predictor.visual_map.weight", "predictor.output_map.weight", "y_encoder.head.weight"):
        assert part not in still
    assert model.temperature.log_scale.grad is not None


def test_the_text_encoders_body_learns_slowly_and_its_head_does_not() -> None:
    model = small(y_lr_mult=0.05)
    groups = optimizer_param_groups(model, 2.0, weight_decay=0.1)
    rates = {id(weight): (group["lr"], group["weight_decay"]) for group in groups for weight in group["params"]}
    named = dict(model.named_parameters())
    assert rates.keys() == {id(weight) for weight in named.values() if weight.requires_grad}
    assert rates[id(named["y_encoder.body.encoder.layer.0.attention.self.query.weight"])] == (0.1, 0.1)
    assert rates[id(named["y_encoder.head.weight"])] == (2.0, 0.1)
    assert rates[id(named["temperature.log_scale"])] == (2.0, 0.0)
    objective = VLJEPAObjective(model, learning_rate=2.0, weight_decay=0.1)
    for name, weight in objective.named_parameters():
        if weight.requires_grad:
            assert rates[id(weight)] == (objective.learning_rate_of(name), objective.weight_decay_of(name)), name
    torch.optim.AdamW(groups)


def test_the_temperature_is_bounded_and_comes_back_from_its_bound() -> None:
    temperature = LearnableTemperature(0.01)
    optimizer = torch.optim.SGD(temperature.parameters(), lr=0.1)
    for sign in (-1, -1, 1):
        optimizer.zero_grad()
        scale = temperature()
        assert float(scale.detach()) <= 100.001
        (sign * scale / 100).backward()
        optimizer.step()
    assert float(temperature().detach()) < 95
    assert not LearnableTemperature(learn=False).log_scale.requires_grad


@pytest.mark.parametrize(("loss", "collapses"), [("cosine", True), ("l2", True), ("info_nce", False)])
def test_without_negatives_a_text_encoder_that_learns_collapses(loss: str, collapses: bool) -> None:
    model = small(y_lr_mult=1.0).train()
    texts = ["red", "a small heart", "two shapes", "it is in the top left", "blue", "one", "large", "a green circle"]
    pixels = pictures(8)
    optimizer = torch.optim.Adam(optimizer_param_groups(model, 1e-2))
    for _ in range(60):
        optimizer.zero_grad()
        found = model(pixels, texts, loss=loss)
        found.loss.backward()
        optimizer.step()
    with torch.no_grad():
        alike = mean_pairwise_cosine(model.encode_text(texts))
        right = (model.predict(pixels) @ model.encode_text(texts).T).argmax(1) == torch.arange(8)
    if collapses:
        assert alike > 0.99 and float(found.loss.detach()) < 0.02
    else:
        assert alike < 0.5 and bool(right.all())


def test_the_frozen_encoder_stays_in_eval_mode() -> None:
    model = small().train()
    assert model.predictor.training and not model.x_encoder.training


def test_triplets_ask_for_both_comparisons() -> None:
    p, q = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[1.0, 0.2], [1.0, 0.6]])
    n = torch.tensor([[0.0, 1.0], [1.0, 1.0]])  # of the second, q is nearer to n than to p
    assert triplet_accuracy(p, q, n) == 0.5
    with pytest.raises(ValueError, match="must all be"):
        triplet_accuracy(p, q, n[:1])


@torch.no_grad()
def test_a_saved_model_predicts_the_same_and_has_a_card(tmp_path: Path) -> None:
    model, pixels = small(y_lr_mult=0.1, max_tokens=20), pictures(2)
    model.trained_on = {"data": "nothing", "held out": {"retrieval": 0.5}}
    model.save_pretrained(tmp_path / "model")
    read = VLJEPA.from_pretrained(tmp_path / "model")
    assert torch.equal(read.predict(pixels, QUERIES), model.predict(pixels, QUERIES))
    assert torch.equal(read.encode_text(["it is red"]), model.encode_text(["it is red"]))
    assert (read.y_lr_mult, read.max_tokens, read.training) == (0.1, 20, False)
    card = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    assert "arXiv:2512.10942" in card and "| retrieval | 0.5 |" in card and "Data: nothing." in card
    with pytest.raises(ValueError, match="no vl-jepa-decoder model"):
        from szilard.representation.vl_jepa.decoder import YDecoder

        YDecoder.from_pretrained(tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(ValueError, match="damaged"):
        VLJEPA.from_pretrained(tmp_path / "model")


@torch.no_grad()
def test_any_module_that_gives_visual_tokens_will_do_but_is_not_written(tmp_path: Path) -> None:
    class Own(nn.Module):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return pixels.float().flatten(2).transpose(1, 2)[..., :3].repeat(1, 1, 6)[..., :WIDTH]

    parts = small()
    model = VLJEPA(
        Own(),
        parts.predictor,
        parts.y_encoder,
        query_tokenizer=parts.query_tokenizer,
        answer_tokenizer=parts.answer_tokenizer,
    )
    assert model.predict(pictures(2)).shape == (2, 12)
    with pytest.raises(ValueError, match="cannot be written as a config"):
        model.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_parts_that_do_not_fit_are_said() -> None:
    one, other = small(), small()
    other.y_encoder.embed_dim = 7
    with pytest.raises(ValueError, match="build both with the same embed_dim"):
        VLJEPA(one.x_encoder, one.predictor, other.y_encoder)
    other.x_encoder.width = 9
    with pytest.raises(ValueError, match="build it with visual_width=9"):
        VLJEPA(other.x_encoder, one.predictor, one.y_encoder)
    with pytest.raises(ValueError, match="y_lr_mult"):
        VLJEPA(one.x_encoder, one.predictor, one.y_encoder, y_lr_mult=-1)
    bare = VLJEPA(one.x_encoder, one.predictor, one.y_encoder)
    with pytest.raises(ValueError, match="has no tokenizer"):
        bare.encode_text(["red"])


def test_bad_input_is_said() -> None:
    model, pixels = small(), pictures(2)
    predicted = model.predict(pixels)
    for texts in ([], "red"):
        with pytest.raises(ValueError, match="list with one text at least"):
            model.encode_text(texts)
    with pytest.raises(ValueError, match="without tokens has no embedding"):
        model.encode_text(["red", ""])
    for labels, prompt in (([], "{}"), ("red", "{}"), (["red"], "a label")):
        with pytest.raises(ValueError, match="prompts that hold"):
            model.classify(predicted, labels, prompt=prompt)
    with pytest.raises(ValueError, match="top_k"):
        model.classify(predicted, ["red"], top_k=2)
    with pytest.raises(ValueError, match="embeddings must be"):
        model.classify(predicted[:, :5], ["red"])
    with pytest.raises(ValueError, match=r"query_ids and query_mask must be \[2, tokens\]"):
        model.predict(pixels, ["red", "blue", "two"])
    with pytest.raises(ValueError, match="visual tokens must be"):
        model.predict(torch.randn(2, 4, WIDTH + 1))
    with pytest.raises(ValueError, match="16 x 16 pixels"):
        model.predict(pictures(2, size=24))
    with pytest.raises(ValueError, match="pixels must be"):
        model.predict(torch.zeros(2, 1, 16, 16))
    with pytest.raises(ValueError, match="loss"):
        model(pixels, ["red", "two"], loss="huber")
