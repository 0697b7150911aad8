"""The generators: seeds, lengths, labels and forms."""

import hashlib
import json
from collections import Counter

import pytest

from szilard.evaluation.parallelbench import (
    FIRST_NAMES,
    NAMES,
    TASKS,
    Sample,
    compact_vocabulary,
    make_task,
    score,
    seed_of,
)
from szilard.evaluation.parallelbench.puzzles import latin_squares, sudoku_grids

LISTS = [name for name, kind in TASKS.items() if kind.group == "list"]
FORMS = [*LISTS, "latin_square", "sudoku"]
SENTENCES = ["w2s_easy", "w2s_medium", "w2s_hard"]


def test_there_are_ten_lists_two_puzzles_and_five_texts():
    assert Counter(kind.group for kind in TASKS.values()) == {"list": 10, "puzzle": 2, "text": 5}
    free = {name for name in FORMS if TASKS[name].free}
    assert free == {"shuffle", "insert_random", "remove_random", "replace_random", "latin_square"}


def test_a_seed_is_the_hash_of_the_name_plus_42_modulo_65535():
    assert seed_of("replace-random") == (int(hashlib.sha256(b"replace_random").hexdigest(), 16) + 42) % 65535
    assert all(0 <= seed_of(name) < 65535 for name in TASKS)


@pytest.mark.parametrize("name", FORMS + SENTENCES)
def test_the_same_arguments_make_the_same_samples_and_another_seed_others(name):
    assert make_task(name, num_samples=5) == make_task(name, num_samples=5, seed=seed_of(name))
    assert make_task(name, num_samples=5) != make_task(name, num_samples=5, seed=7)


@pytest.mark.parametrize("name", LISTS)
def test_a_hundred_samples_are_shared_equally_by_the_four_lengths(name):
    samples = make_task(name)
    assert Counter(sample.metadata["n"] for sample in samples) == {3: 25, 4: 25, 5: 25, 6: 25}
    for sample in samples:
        items = sample.metadata["input"]
        assert len(set(items)) == len(items) == sample.metadata["n"]
        assert set(items) <= set(NAMES) and sample.metadata["word"] not in items


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("compact", [False, True])
def test_every_label_is_right_in_its_own_form(name, compact):
    for sample in make_task(name, num_samples=24, compact=compact):
        assert score(name, sample.answer, sample) == score(name, sample.answer, sample, strict=True) == 1
        assert score(name, "", sample) == 0


@pytest.mark.parametrize("name", FORMS)
def test_a_worked_example_of_its_own_comes_before_the_question(name):
    sample = make_task(name, num_samples=4)[0]
    asked, told, question = sample.messages
    assert [turn["role"] for turn in sample.messages] == ["user", "assistant", "user"]
    assert asked["content"] != question["content"] and told["content"] in sample.prompt
    assert question["content"] in sample.prompt


def test_examples_may_have_another_length():
    lengths = [
        (len(json.loads(sample.messages[1]["content"])), sample.metadata["n"]) for sample in make_task("reverse")
    ]
    assert any(example != n for example, n in lengths) and any(example == n for example, n in lengths)


def test_a_shuffle_is_never_the_order_it_was_made_of():
    for sample in make_task("shuffle", [2, 3], 60):
        assert sample.label != sample.metadata["input"]
        assert sorted(sample.label) == sorted(sample.metadata["input"])


def test_places_run_over_the_whole_list():
    assert {s.metadata["index"] for s in make_task("insert_index", 3, 60)} == {0, 1, 2, 3}
    assert {s.metadata["index"] for s in make_task("remove_index", 3, 60)} == {0, 1, 2}
    random_ones = make_task("replace_random", 3, 60)
    assert all(s.metadata["index"] is None for s in random_ones)
    assert {s.label.index(s.metadata["word"]) for s in random_ones} == {0, 1, 2}


def test_sorting_asks_for_last_names_and_its_label_goes_by_the_whole_name():
    sample = make_task("sort", 6, 1)[0]
    assert "last name" in sample.messages[-1]["content"]
    assert sample.label == sorted(sample.metadata["input"])


def test_an_output_format_has_a_mask_for_each_item():
    sample = make_task("insert_random", 3, 1)[0]
    assert sample.output_format == '["[MASK]", "[MASK]", "[MASK]", "[MASK]"]'
    assert make_task("remove_index", 3, 1, compact=True)[0].output_format == "[MASK] [MASK]"


def test_the_harder_variant_has_fifteen_items():
    assert {len(sample.label) for sample in make_task("copy", 15, 3)} == {15}


# ---- compact form ---------------------------------------------------------------------------------------------------


def test_a_compact_question_is_a_handful_of_words():
    sample = make_task("insert_index", 3, 1, words=["a", "b", "c", "d"], compact=True)[0]
    task, index, word, *items, arrow = sample.prompt.split()
    assert (task, arrow) == ("insert_index", "->") and sorted([word, *items]) == ["a", "b", "c", "d"]
    items.insert(int(index), word)
    assert sample.answer.split() == items == sample.label


@pytest.mark.parametrize("words", [None, FIRST_NAMES, ("x y z", "a b c", "d e f", "g h i", "j k l", "m n o", "p q r")])
def test_compact_lists_hold_items_of_one_two_or_more_words(words):
    width = 2 if words is None else len(words[0].split())
    vocabulary = set(compact_vocabulary(words))
    for name in LISTS:
        sample = make_task(name, 6, 1, words=words, compact=True)[0]
        assert set(sample.prompt.split()) | set(sample.answer.split()) <= vocabulary
        assert len(sample.answer.split()) == width * len(sample.label)


def test_compact_puzzles_are_words_of_the_vocabulary():
    for name in ("latin_square", "sudoku"):
        sample = make_task(name, num_samples=1, compact=True)[0]
        assert set(sample.prompt.split()) | set(sample.answer.split()) <= set(compact_vocabulary())
        assert len(sample.answer.split()) == 16


# ---- puzzles --------------------------------------------------------------------------------------------------------


def test_there_are_576_latin_squares_and_288_sudokus():
    assert len(latin_squares(4)) == 576 and len(sudoku_grids()) == 288
    assert [len(latin_squares(n)) for n in (2, 3)] == [2, 12]


def test_a_sudoku_has_four_blanks_and_one_solution():
    samples = make_task("sudoku")
    assert len(samples) == 108
    for sample in samples[:20]:
        puzzle = [cell for row in sample.metadata["puzzle"] for cell in row]
        assert puzzle.count("0") == 4
        fitting = [
            grid
            for grid in sudoku_grids()
            if all(
                given in ("0", str(value + 1))
                for given, value in zip(puzzle, (cell for row in grid for cell in row), strict=True)
            )
        ]
        assert [[str(value + 1) for value in row] for row in fitting[0]] == sample.label and len(fitting) == 1


# ---- texts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 3, 4, 5, 6, 7])
def test_a_sentence_is_asked_for_with_different_words(n):
    for name in SENTENCES:
        for sample in make_task(name, n, 10):
            assert len(set(sample.label)) == n
            assert all(word in sample.messages[-1]["content"] for word in sample.label)
            assert len(sample.messages) == 1  # no example


def test_summaries_and_paraphrases_ask_for_their_file():
    with pytest.raises(ValueError, match="SAMSum's test split, with the fields 'dialogue' and 'summary'"):
        make_task("summarization")
    with pytest.raises(ValueError, match="chatgpt-paraphrases"):
        make_task("paraphrasing")
    with pytest.raises(ValueError, match=r"there is no data file 'nowhere\.csv'"):
        make_task("paraphrasing", data="nowhere.csv")


def test_texts_come_from_a_file_with_their_first_reference(tmp_path):
    path = tmp_path / "paraphrases.csv"
    path.write_text("text,paraphrases\nIt rains.,\"['Rain falls.', 'There is rain.']\"\n")
    (sample,) = make_task("paraphrasing", data=path)
    assert sample.label == "Rain falls." and sample.metadata == {"text": "It rains."}
    assert sample.prompt.endswith("It rains.\nParaphrase:\n")
    path = tmp_path / "dialogues.json"
    path.write_text('[{"dialogue": "A: Hi", "summary": "A greets."}, {"dialogue": "B: Bye"}]')
    with pytest.raises(ValueError, match=r"record 2.*'summary' is missing"):
        make_task("summarization", data=path)


def test_a_sample_survives_json():
    for name in ("insert_index", "latin_square", "w2s_hard"):
        sample = make_task(name, num_samples=1)[0]
        assert Sample.from_dict(json.loads(json.dumps(sample.to_dict()))) == sample


# ---- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "options", "reason"),
    [
        (("shufle",), {}, "did you mean 'shuffle'"),
        (("copy", 16), {}, "n must be between 1 and 15"),
        (("shuffle", 1), {}, "n must be between 2 and 15"),
        (("sudoku", 3), {}, "a sudoku has n=4"),
        (("copy", [3, 3]), {}, "different lengths"),
        (("copy", 3, 0), {}, "num_samples must be at least 1"),
        (("replace_random", 3), {"words": ["a", "b", "c"]}, "4 different words are needed"),
        (("copy", 2), {"words": ["a", "b", "b"]}, "holds a word twice"),
        (("copy", 2), {"words": ["a", "b,c", "d"]}, "no commas"),
        (("copy", 2), {"words": ["a", "b c", "d"], "compact": True}, "same number of words"),
        (("copy", 2), {"words": ["a", "-", "d"], "compact": True}, "have a meaning"),
        (("w2s_easy",), {"compact": True}, "no compact form"),
        (("w2s_easy", 8), {}, "n must be between 1 and 7"),
        (("sudoku",), {"words": ["a"]}, "words is for list tasks"),
        (("copy",), {"data": "x.csv"}, "takes no file"),
        (("paraphrasing", 3), {}, "neither n nor seed"),
    ],
)
def test_a_task_that_cannot_be_made_is_refused(arguments, options, reason):
    with pytest.raises(ValueError, match=reason):
        make_task(*arguments, **options)


def test_words_must_be_a_list():
    with pytest.raises(TypeError, match="list of texts"):
        make_task("copy", words="abc")
