"""The recipe of tiny-vlm, and its checkpoint as a user loads it."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import szilard_zoo  # noqa: E402
from szilard_zoo import evaluate_tiny_vlm, scenes, train_tiny_vlm  # noqa: E402


@pytest.fixture(scope="module")
def checkpoint():
    folder = szilard_zoo.path("tiny-vlm")
    model = transformers.AutoModelForImageTextToText.from_pretrained(folder).eval()
    return model, transformers.AutoProcessor.from_pretrained(folder)


def _prompt(processor, messages, **kwargs):
    return processor.apply_chat_template(
        messages, tokenize=True, add_generation_prompt=True, return_dict=True, return_tensors="pt", **kwargs
    )


def test_the_checkpoint_is_small_and_its_words_are_those_of_the_recipe(checkpoint) -> None:
    folder = szilard_zoo.path("tiny-vlm")
    assert (folder / "model.safetensors").stat().st_size < 12e6
    assert checkpoint[1].tokenizer.get_vocab() == train_tiny_vlm.build_tokenizer().get_vocab()


def test_the_picture_stands_between_vision_markers_and_the_assistant_is_to_speak(checkpoint) -> None:
    _, processor = checkpoint
    sample = next(scenes.dataset("heldout", 1))
    ids = _prompt(processor, sample.messages())["input_ids"][0].tolist()
    tokens = processor.tokenizer.convert_ids_to_tokens(ids)
    expected = ["<user>", "<vision_start>", *["<image>"] * 64, "<vision_end>", *sample.question.split(), "<assistant>"]
    assert tokens == expected


def test_every_training_text_survives_the_tokenizer(checkpoint) -> None:
    tokenizer = checkpoint[1].tokenizer
    for sample in scenes.dataset("train", 300, seed=9):
        ids = tokenizer.encode(sample.text)
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids, skip_special_tokens=True) == sample.text


def test_a_batch_of_held_out_questions_is_answered_well_above_chance(checkpoint) -> None:
    samples = list(scenes.dataset("heldout", 40, seed=1))
    replies = evaluate_tiny_vlm.reply(*checkpoint, samples, batch_size=40)
    right = [scenes.is_correct(sample, text) for sample, text in zip(samples, replies.texts, strict=True)]
    assert sum(right) >= 0.6 * len(samples)  # with another picture in its place: 0.25
    assert sum(replies.finished) >= 38
    assert all(text.startswith("<think>") for text in replies.texts)


def test_a_padded_batch_answers_like_single_questions(checkpoint) -> None:
    samples = list(scenes.dataset("heldout", 6, seed=2))
    together = evaluate_tiny_vlm.reply(*checkpoint, samples, batch_size=6).texts
    assert together == evaluate_tiny_vlm.reply(*checkpoint, samples, batch_size=1).texts


def test_a_question_without_a_picture_says_that_there_is_none(checkpoint) -> None:
    model, processor = checkpoint
    inputs = _prompt(processor, [{"role": "user", "content": "Is there a red circle?"}])
    said = model.generate(**inputs)[0, inputs["input_ids"].shape[1] :]
    assert processor.decode(said, skip_special_tokens=True) == train_tiny_vlm.BLIND


def test_questions_packed_into_one_row_get_the_logits_of_single_prompts() -> None:
    tokenizer = train_tiny_vlm.build_tokenizer()
    model = train_tiny_vlm.build_model(tokenizer, seed=0).eval()
    trainee = train_tiny_vlm.Trainee(model)
    batch = train_tiny_vlm.Packer(tokenizer, rows=1, questions=3, seed=0)(0)
    with torch.no_grad():
        packed, _ = trainee(batch)
        total = 0.0
        prefix = int((batch.positions[0] == batch.positions[0, : 64 + 3].max()).nonzero()[0]) + 1
        starts = [i for i in range(prefix, batch.ids.shape[1]) if batch.positions[0, i] == prefix]
        for start, end in zip(starts, [*starts[1:], batch.ids.shape[1]], strict=True):
            own = torch.cat([batch.ids[0, :prefix], batch.ids[0, start:end]]).unsqueeze(0)
            logits = model(input_ids=own, pixel_values=batch.pixels).logits[0, prefix:]
            total += torch.nn.functional.cross_entropy(logits, batch.labels[0, start:end], reduction="sum").item()
    assert len(starts) == 3
    assert total / batch.answered == pytest.approx(packed.item(), abs=1e-5)


def test_an_interrupted_run_resumes_to_the_same_weights(tmp_path: Path) -> None:
    def weights(name: str) -> dict[str, torch.Tensor]:
        return transformers.AutoModelForImageTextToText.from_pretrained(tmp_path / name).state_dict()

    small = {"rows": 2, "questions": 2, "threads": torch.get_num_threads()}
    train_tiny_vlm.train(tmp_path / "whole", steps=4, **small)

    class Killed(Exception):
        pass

    pack, calls = train_tiny_vlm.Packer.__call__, []

    def killed_at_step_3(self, step):
        calls.append(step)
        if step == 3 and calls.count(3) == 1:
            raise Killed
        return pack(self, step)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_tiny_vlm.Packer, "__call__", killed_at_step_3)
        with pytest.raises(Killed):
            train_tiny_vlm.train(tmp_path / "halves", steps=4, save_every=2, **small)
        train_tiny_vlm.train(tmp_path / "halves", steps=4, save_every=2, resume=True, **small)
    assert calls == [0, 1, 2, 3, 2, 3]
    whole, halves = weights("whole"), weights("halves")
    assert all(torch.equal(whole[name], halves[name]) for name in whole)
    assert not list(tmp_path.glob("*.training.pt*"))


def test_resuming_without_a_state_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing to resume"):
        train_tiny_vlm.train(tmp_path / "none", resume=True)
