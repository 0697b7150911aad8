"""What is held out of a training."""

from szilard.training.course import split


def test_whole_texts_are_held_out() -> None:
    texts = [0, 0, 0, 1, 2, 2, 3, 4, 4, 4]
    learned, held = split(texts, 0.4, seed=0)
    assert sorted(learned + held) == list(range(10))
    assert len({texts[index] for index in held}) == 2
    assert not {texts[index] for index in held} & {texts[index] for index in learned}
    assert split(texts, 0.4, seed=0) == (learned, held)
    assert any(split(texts, 0.4, seed)[1] != held for seed in range(1, 5))


def test_of_a_single_text_stretches_are_held_out() -> None:
    learned, held = split([7] * 10, 0.2, seed=0)
    assert len(learned) == 8 and len(held) == 2


def test_one_is_held_out_and_one_stays() -> None:
    assert [len(part) for part in split([0, 1, 2], 0.01, seed=0)] == [2, 1]
    assert [len(part) for part in split([0, 1], 0.9, seed=0)] == [1, 1]
    assert split([0], 0.5, seed=0) == ([0], [])
    assert split([0, 1], 0.0, seed=0) == ([0, 1], [])
    assert split([], 0.5, seed=0) == ([], [])
