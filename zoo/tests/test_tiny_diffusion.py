"""The recipe of tiny-diffusion, and its checkpoint as a user loads it."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("szilard")

from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402

import szilard_zoo  # noqa: E402
from szilard.evaluation.parallelbench import make_task, score  # noqa: E402
from szilard_zoo import train_tiny_diffusion as recipe  # noqa: E402
from szilard_zoo.evaluate_tiny_diffusion import fill_in, questions  # noqa: E402
from szilard_zoo.written_tasks import WRITTEN, fits  # noqa: E402


@pytest.fixture(scope="module")
def loaded():
    if "tiny-diffusion" not in szilard_zoo.names():
        pytest.skip("zoo/tiny-diffusion was not trained here: python -m szilard_zoo.train_tiny_diffusion")
    folder = szilard_zoo.path("tiny-diffusion")
    return AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


def test_the_checkpoint_is_small_and_says_what_it_is(loaded) -> None:
    model, tokenizer = loaded
    assert (szilard_zoo.path("tiny-diffusion") / "model.safetensors").stat().st_size < 12e6
    assert model.config.masked_diffusion == {
        "mask_token_id": tokenizer.mask_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "eot_token_id": None,
        "shift_logits": False,
        "forbid_mask": True,
    }


@pytest.mark.parametrize("task", recipe.FAMILIES["items"])
def test_it_is_right_about_lists_one_token_at_a_time(loaded, task) -> None:
    asked = questions(task, True, 16)
    found, passes = fill_in(*loaded, [prompt for prompt, _ in asked], 16)
    assert passes == 16
    assert sum(right(answer) for answer, (_, right) in zip(found, asked, strict=True)) >= 14


def test_tokens_that_must_agree_fail_together(loaded) -> None:
    asked = questions("shuffle", True, 32)
    found, passes = fill_in(*loaded, [prompt for prompt, _ in asked], 16, at_once=True)
    assert passes == 1
    assert sum(right(answer) for answer, (_, right) in zip(found, asked, strict=True)) <= 6


def test_every_question_and_answer_is_made_of_known_words() -> None:
    tokenizer, rng = recipe.build_tokenizer(), random.Random(0)
    for family, tasks in recipe.FAMILIES.items():
        for task in tasks:
            for _ in range(20):
                name, prompt, answer = recipe.example(rng, family, task)
                ids = tokenizer.encode(answer)
                assert name == task and tokenizer.unk_token_id not in [*ids, *tokenizer.encode(prompt)]
                assert tokenizer.decode(ids) == answer and len(ids) < recipe.LONGEST
    for task in ("copy", "latin_square", "sudoku"):  # the benchmark's own compact samples
        sample = make_task(task, num_samples=4, compact=True)[0]
        assert tokenizer.decode(tokenizer.encode(sample.prompt)) == sample.prompt
        assert score(task, sample.answer, sample) == 1


@pytest.mark.parametrize("task", sorted(WRITTEN))
def test_right_answers_fit_and_wrong_ones_do_not(task) -> None:
    rng = random.Random(1)
    for _ in range(20):
        prompt, answer = WRITTEN[task](rng)
        words = answer.split()
        assert fits(task, prompt, answer)
        assert not fits(task, prompt, " ".join(words[:-1]))
        words[2], words[-2] = words[-2], words[2]
        assert " ".join(words) == answer or not fits(task, prompt, " ".join(words))


def test_batches_depend_on_seed_and_index_alone() -> None:
    tokenizer = recipe.build_tokenizer()
    stage = recipe.Stage("test", 4, 1e-3, "constant", 1, {"items": 1.0, "texts": 1.0})
    batches = recipe.Canvases(tokenizer, stage, 0)
    for index in range(4):
        one, again = batches[index], recipe.Canvases(tokenizer, stage, 0)[index]
        assert all(torch.equal(one[name], again[name]) for name in ("tokens", "answer", "real"))
        assert bool((one["tokens"][:, -1] == tokenizer.eos_token_id).all())
        assert one["answer"].sum(1).max() <= recipe.LONGEST


def test_a_short_run_writes_a_model_that_loads(tmp_path: Path) -> None:
    stages = [recipe.Stage(name, 2, 1e-3, "constant", 1, {"items": 1.0}) for name in ("a", "b")]
    for folder in ("first", "again"):  # what is finished is not done again
        recipe.train(tmp_path / folder, work=tmp_path / "work", stages=stages)
    one, other = (AutoModelForCausalLM.from_pretrained(tmp_path / folder) for folder in ("first", "again"))
    assert torch.equal(one.lm_head.weight, other.lm_head.weight)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "first")
    assert fill_in(one.eval(), tokenizer, ["copy - - Ada Boris Carla ->"], 6)[1] <= 6
