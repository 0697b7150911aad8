"""The exact model: true conditionals, and the closed forms that decoders with it must show."""

import math

import pytest
import torch

from szilard.evaluation.parallelbench import (
    FIRST_NAMES,
    ExactTaskModel,
    make_task,
    replace_random_accuracy,
    score,
    shuffle_accuracy,
)

SAMPLES = 2000


def random_k(k):
    """k open places by chance."""

    def choose(confidence, open_, generator):
        order = torch.rand(confidence.shape, generator=generator, dtype=torch.float64).masked_fill(~open_, -1)
        return _top(order, open_, k)

    return choose


def confident_k(k):
    """The k most confident places."""
    return lambda confidence, open_, generator: _top(confidence.masked_fill(~open_, -1), open_, k)


def threshold(tau):
    """All places of at least this confidence, and the most confident one."""

    def choose(confidence, open_, generator):
        known = confidence.masked_fill(~open_, -1)
        return open_ & ((known >= tau) | _top(known, open_, 1))

    return choose


def _top(order, open_, k):
    chosen = torch.zeros_like(open_).scatter(1, order.topk(k, dim=1).indices, True)
    return chosen & open_


def decode(model, prompts, choose, temperature=0, seed=0):
    """Share of right answers, and forwards per row, of unmasking with one rule."""
    generator = torch.Generator().manual_seed(seed)
    tokens, real = model.canvas(prompts)
    wanted = torch.arange(model.task.prompt_length, tokens.shape[1]).expand(len(tokens), -1)
    steps = torch.zeros(len(tokens), dtype=torch.int64)
    while (tokens == model.config.mask_token_id).any():
        answer = tokens[:, model.task.prompt_length :]
        open_ = answer == model.config.mask_token_id
        probabilities = model.predict(tokens, real, wanted).double().softmax(-1)
        if temperature:
            flat = probabilities.flatten(0, 1)
            drawn = torch.multinomial(flat, 1, generator=generator).view(answer.shape)
        else:
            drawn = probabilities.argmax(-1)
        confidence = probabilities.gather(2, drawn[..., None])[..., 0]
        chosen = choose(confidence, open_, generator)
        steps += open_.any(1)
        answer[chosen] = drawn[chosen]
    return float(model.is_right(tokens, real).double().mean()), steps


def prompts(name, n, count=SAMPLES):
    sample = make_task(name, n, 1, words=FIRST_NAMES, compact=True)[0]
    return [sample.prompt] * count


def within_three_sigma(share, expected):
    return abs(share - expected) <= 3 * math.sqrt(expected * (1 - expected) / SAMPLES)


# ---- closed forms ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "k"), [(4, 1), (4, 2), (4, 4), (6, 2), (6, 6), (8, 2)])
@pytest.mark.parametrize("temperature", [0, 1])
def test_shuffling_k_at_a_time_is_right_as_often_greedily_as_sampled(n, k, temperature):
    model = ExactTaskModel("shuffle", n, tie_noise=0 if temperature else 1e-4)
    many = SAMPLES if n < 8 else 200
    share, steps = decode(model, prompts("shuffle", n, many), confident_k(k), temperature, seed=n + k)
    expected = shuffle_accuracy(n, k)
    assert abs(share - expected) <= 3 * math.sqrt(expected * (1 - expected) / many)
    assert set(steps.tolist()) == {n // k}


@pytest.mark.parametrize(("n", "k"), [(4, 1), (4, 2), (4, 4), (6, 2), (6, 3), (6, 4)])
@pytest.mark.parametrize("temperature", [0, 1])
def test_replacing_k_at_a_time_follows_its_closed_form(n, k, temperature):
    model = ExactTaskModel("replace_random", n, tie_noise=0 if temperature else 1e-4)
    share, steps = decode(model, prompts("replace_random", n), random_k(k), temperature, seed=n + k)
    assert within_three_sigma(share, replace_random_accuracy(n, k, temperature))
    assert set(steps.tolist()) == {math.ceil(n / k)}


@pytest.mark.parametrize("n", [3, 6])
def test_a_threshold_above_one_half_shuffles_one_at_a_time_and_rightly(n):
    model = ExactTaskModel("shuffle", n, tie_noise=1e-4)
    share, steps = decode(model, prompts("shuffle", n, 200), threshold(0.51))
    assert share == 1 and set(steps.tolist()) == {n}


@pytest.mark.parametrize("n", [4, 6])
def test_replacing_by_threshold_is_all_or_nothing(n):
    model = ExactTaskModel("replace_random", n, tie_noise=1e-5)
    keep = (n - 1) / n
    share, steps = decode(model, prompts("replace_random", n, 200), threshold(keep - 0.01))
    assert share == 0 and set(steps.tolist()) == {1}
    share, steps = decode(model, prompts("replace_random", n, 200), threshold(keep + 0.01))
    assert share == 1 and set(steps.tolist()) == {n}


@pytest.mark.parametrize("name", ["copy", "reverse", "sort", "insert_index", "remove_index", "replace_index", "sudoku"])
def test_a_task_with_one_answer_is_solved_in_one_step(name):
    words = None if name == "sudoku" else FIRST_NAMES
    samples = make_task(name, 4, 30, words=words, compact=True)
    model = ExactTaskModel(name, 4)
    tokens, real = model.canvas([sample.prompt for sample in samples])
    start = model.task.prompt_length
    wanted = torch.arange(start, tokens.shape[1]).expand(len(tokens), -1)
    logits = model.predict(tokens, real, wanted)
    assert bool((logits.amax(-1) == 0).all())  # certain
    for row, sample in zip(logits.argmax(-1), samples, strict=True):
        assert model.decode(row) == sample.answer


@pytest.mark.parametrize("name", ["shuffle", "insert_random", "remove_random", "replace_random", "latin_square"])
def test_one_at_a_time_by_sampling_is_always_right(name):
    words = None if name == "latin_square" else FIRST_NAMES
    samples = make_task(name, 4, 40, words=words, compact=True)
    model = ExactTaskModel(name, 4, must_differ=name == "shuffle")
    share, _ = decode(model, [sample.prompt for sample in samples], random_k(1), temperature=1)
    assert share == 1


def test_what_the_model_finds_right_is_what_the_benchmark_scores_as_right():
    samples = make_task("insert_random", 3, 20, words=FIRST_NAMES, compact=True)
    model = ExactTaskModel("insert_random", 3)
    tokens, real = model.canvas([sample.prompt for sample in samples])
    start, generator = model.task.prompt_length, torch.Generator().manual_seed(0)
    logits = model.predict(tokens, real, torch.arange(start, tokens.shape[1]).expand(len(tokens), -1))
    drawn = torch.multinomial(logits.softmax(-1).flatten(0, 1), 1, generator=generator)
    tokens[:, start:] = drawn.view(len(tokens), -1)
    right = model.is_right(tokens, real).tolist()
    scores = [score("insert_random", model.decode(row[start:]), s) for row, s in zip(tokens, samples, strict=True)]
    assert scores == [float(found) for found in right]
    assert 0 < sum(right) < 20


# ---- conditionals -------------------------------------------------------------------------------------------------


def test_marginals_are_those_of_the_enumerated_answers():
    model = ExactTaskModel("shuffle", 4)
    tokens, real = model.canvas(["shuffle - - Ada Bela Carla Dora ->"] * 2)
    start = model.task.prompt_length
    tokens[1, start + 1] = model.ids["Dora"]
    wanted = torch.tensor([[start, start + 1, start - 2]] * 2)
    probabilities = model.predict(tokens, real, wanted).exp()
    names = [model.ids[name] for name in ("Ada", "Bela", "Carla", "Dora")]
    torch.testing.assert_close(probabilities[0, 0, names], torch.full((4,), 0.25))
    torch.testing.assert_close(probabilities[1, 0, names], torch.tensor([1 / 3, 1 / 3, 1 / 3, 0]))
    assert probabilities[1, 1, model.ids["Dora"]] == 1  # a filled place is what it is
    assert probabilities[0, 2, model.ids["Dora"]] == 1  # and so is the prompt
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(2, 3))


def test_a_shuffle_that_must_differ_never_gives_the_order_it_got():
    model = ExactTaskModel("shuffle", 3, must_differ=True)
    tokens, real = model.canvas(["shuffle - - Ada Bela Carla ->"])
    start = model.task.prompt_length
    first = model.predict(tokens, real, torch.tensor([[start]])).exp()[0, 0]
    assert float(first[model.ids["Ada"]]) == pytest.approx(0.2)
    tokens[0, start] = model.ids["Ada"]
    second = model.predict(tokens, real, torch.tensor([[start + 1]])).exp()[0, 0]
    assert float(second[model.ids["Carla"]]) == 1


def test_an_impossible_canvas_gets_the_answers_nearest_to_it():
    model = ExactTaskModel("shuffle", 3)
    tokens, real = model.canvas(["shuffle - - Ada Bela Carla ->"])
    start = model.task.prompt_length
    tokens[0, start : start + 2] = model.ids["Ada"]  # twice
    last = model.predict(tokens, real, torch.tensor([[start + 2]])).exp()[0, 0]
    # Ada-Bela-Carla, Ada-Carla-Bela, Bela-Ada-Carla and Carla-Ada-Bela agree in one place each
    torch.testing.assert_close(last[[model.ids["Bela"], model.ids["Carla"]]], torch.tensor([0.5, 0.5]))
    assert not model.is_right(tokens, real)


def test_rows_do_not_see_each_other_and_padding_changes_nothing():
    samples = make_task("latin_square", num_samples=3, compact=True)
    model = ExactTaskModel("latin_square")
    tokens, real = model.canvas([sample.prompt for sample in samples])
    start = model.task.prompt_length
    for row, sample in enumerate(samples):
        tokens[row, start + row] = model.ids[sample.label[0][row]]
    wanted = torch.arange(start, tokens.shape[1]).expand(3, -1)
    together = model.predict(tokens, real, wanted)
    padded = torch.cat([torch.zeros(3, 2, dtype=torch.int64), tokens], 1)
    known = torch.cat([torch.zeros(3, 2, dtype=torch.bool), real], 1)
    torch.testing.assert_close(model.predict(padded, known, wanted + 2), together)
    for row in range(3):
        alone = model.predict(tokens[row : row + 1], real[row : row + 1], wanted[:1])
        torch.testing.assert_close(alone[0], together[row])


def test_after_the_answer_comes_the_end_for_sure():
    model = ExactTaskModel("copy", 3)
    tokens, real = model.canvas(["copy - - Ada Bela Carla ->"], length=6)
    start = model.task.prompt_length
    logits = model.predict(tokens, real, torch.arange(start, start + 6)[None])
    assert [model.vocabulary[token] for token in logits.argmax(-1)[0]] == ["Ada", "Bela", "Carla", *["<end>"] * 3]


def test_tie_noise_changes_ties_and_nothing_else():
    plain, noisy = ExactTaskModel("shuffle", 4), ExactTaskModel("shuffle", 4, tie_noise=1e-4)
    tokens, real = plain.canvas(["shuffle - - Ada Bela Carla Dora ->"] * 200)
    wanted = torch.full((200, 1), plain.task.prompt_length)
    assert len(set(plain.predict(tokens, real, wanted).argmax(-1).flatten().tolist())) == 1
    logits = noisy.predict(tokens, real, wanted)
    assert len(set(logits.argmax(-1).flatten().tolist())) == 4
    torch.testing.assert_close(logits, plain.predict(tokens, real, wanted), atol=1e-3, rtol=0)


# ---- distributions whose information is concentrated -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "bits", "rounds"), [("names_shuffle", 6.907, 8), ("key_bits", 3, 4), ("two_key_bits", 6, 8)]
)
def test_a_threshold_of_point_nine_needs_its_rounds(name, bits, rounds):
    model = ExactTaskModel(name)
    assert math.log2(model.num_answers) == pytest.approx(bits, abs=1e-3)
    for temperature in (0, 1):
        share, steps = decode(model, [f"{name} ->"] * 200, threshold(0.9), temperature)
        assert share == 1 and set(steps.tolist()) == {rounds}


@pytest.mark.parametrize(("name", "rounds"), [("names_shuffle", 5), ("key_bits", 2), ("two_key_bits", 3)])
def test_one_place_of_the_highest_entropy_a_round_needs_fewer(name, rounds):
    """A flat place has the lowest confidence; with what is certain, one of these is committed a round."""

    def explore(confidence, open_, generator):
        known = confidence.masked_fill(~open_, -1)
        certain = known >= 0.9
        return certain | _top((1 - confidence).masked_fill(~open_, -1), open_, 1)

    share, steps = decode(ExactTaskModel(name), [f"{name} ->"] * 100, explore)
    assert share == 1 and set(steps.tolist()) == {rounds}


# ---- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("shufle",), "did you mean 'shuffle'"),
        (("w2s_easy",), "no exact model"),
        (("shuffle", 9), "n must be between 2 and 8"),
        (("sudoku", 3), "n must be between 4 and 4"),
    ],
)
def test_what_cannot_be_enumerated_is_refused(arguments, reason):
    with pytest.raises(ValueError, match=reason):
        ExactTaskModel(*arguments)


def test_options_and_prompts_of_another_task_are_refused():
    with pytest.raises(ValueError, match="option of 'shuffle'"):
        ExactTaskModel("copy", must_differ=True)
    with pytest.raises(ValueError, match="single words"):
        ExactTaskModel("copy", words=["Ada Abbott", "Bela Barnes"])
    model = ExactTaskModel("shuffle", 3)
    with pytest.raises(ValueError, match="no word of the exact model"):
        model.encode("shuffle - - Ada Bela Zebra ->")
    tokens, real = model.canvas(["copy - - Ada Bela Carla ->"])
    with pytest.raises(ValueError, match="another task or length"):
        model.predict(tokens, real, torch.tensor([[7]]))
    tokens, real = model.canvas(["shuffle - - Ada Bela Carla ->"], length=2)
    with pytest.raises(ValueError, match="takes 3 columns"):
        model.predict(tokens, real, torch.tensor([[7]]))
