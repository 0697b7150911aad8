"""Sweeps, PB@A, the oracle and the centre of mass."""

import pytest

from szilard.evaluation.parallelbench import Answer, Point, centre_of_mass, make_task, oracle, pb_at, sweep

# Published averages over the 17 tasks, LLaDA-1.5, (tokens per step, accuracy): the project page's data.
THRESHOLD = [(1.33, 86.4), (3.417417, 83.823529), (4.530690, 77.470588), (5.62, 68.3), (6.55, 57.9), (8.27, 47.2)]
FACTOR = [
    (3.953704631, 80.470588235),
    (4.579923745, 77.470588235),
    (5.118392187, 74.058823529),
    (5.620205609, 70.235294118),
    (6.258545338, 65.941176471),
]
TOP_K = [(1, 86.4), (2, 74.4), (4, 58.9), (8, 41.1), (16, 29.9), (32, 14.4)]


def test_pb_at_80_of_the_published_threshold_curve_is_the_published_one():
    assert pb_at(THRESHOLD, 80) == pytest.approx(4.087, abs=5e-4)
    assert pb_at(THRESHOLD, 75) == pytest.approx(4.82, abs=0.01)
    assert pb_at(THRESHOLD, 70) == pytest.approx(5.42, abs=0.01)


@pytest.mark.parametrize(("accuracy", "speed"), [(80, 4.051935), (75, 4.969849), (70, 5.655183)])
def test_pb_of_the_published_factor_curve_is_the_published_one(accuracy, speed):
    assert pb_at(FACTOR, accuracy) == pytest.approx(speed, abs=1e-5)
    assert pb_at(FACTOR[::-1], accuracy) == pytest.approx(speed, abs=1e-5)  # in any order


@pytest.mark.parametrize(("accuracy", "speed"), [(80, 1), (75, 1), (70, 2)])
def test_pb_of_top_k_is_its_best_grid_point(accuracy, speed):
    assert pb_at(TOP_K, accuracy, interpolate=False) == speed


def test_pb_that_is_never_reached_is_zero_and_one_that_always_is_the_fastest_point():
    assert pb_at(TOP_K, 99) == 0
    assert pb_at(TOP_K, 10) == 32
    assert pb_at([(1, 70), (2, 90), (4, 70)], 80) == 3  # the later of two crossings


def test_a_sweep_scores_every_sample_at_every_setting():
    samples = make_task("copy", 3, 4)

    def decoder(setting):
        # the faster, the more answers are wrong
        return lambda asked: [
            Answer(sample.answer if at >= setting - 1 else "?", steps=32 // setting, tokens=32)
            for at, sample in enumerate(asked)
        ]

    table = sweep(decoder, (1, 2, 4), {"copy": samples, "reverse": make_task("reverse", 3, 4)})
    assert table.tasks == ("copy", "reverse") and table.settings == (1, 2, 4)
    assert table.points("copy") == [Point(1, 100), Point(2, 75), Point(4, 25)]
    assert table.points() == table.points("copy")
    assert len(table.rows) == 24
    assert pb_at(table, 75) == 2 and pb_at(table, 87.5) == 1.5
    # samples 0, 1 and 2 are right up to setting 1, 2 and 2, sample 3 up to 4
    assert oracle(table) == Point((1 + 2 + 2 + 4) / 4, 100)


def test_the_oracle_takes_the_fewest_steps_of_the_best_score_even_if_that_is_zero():
    table = sweep(
        lambda steps: lambda asked: [Answer("?", steps, 12) for _ in asked], (6, 3, 4), ["copy"], num_samples=2
    )
    assert oracle(table) == Point(4, 0)


def test_the_centre_of_mass_is_low_for_what_falls_early():
    assert centre_of_mass({1: 100, 2: 100, 4: 100}) == pytest.approx(7 / 3)
    assert centre_of_mass({1: 100, 2: 0, 4: 0}) == 1
    with pytest.raises(ValueError, match="one of them above"):
        centre_of_mass({1: 0, 2: 0})


def test_a_sweep_that_cannot_be_made_is_refused():
    with pytest.raises(ValueError, match="at least one setting"):
        sweep(lambda setting: lambda asked: [], (), ["copy"])
    with pytest.raises(ValueError, match="0 answers to 2 samples of 'copy'"):
        sweep(lambda setting: lambda asked: [], (1,), ["copy"], num_samples=2)
    with pytest.raises(ValueError, match="at least one point"):
        pb_at([], 80)
