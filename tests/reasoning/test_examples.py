"""Problems are read from what people have, make themselves, and are refused in a sentence where a part is missing."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from szilard.reasoning.examples import Reasoning, delimiter_ids, prompt_ids, read_reasoning
from szilard.reasoning.tasks import (
    arithmetic_chains,
    countdown,
    countdown_solutions,
    number_tokenizer,
    solves_countdown,
)


@pytest.mark.parametrize(
    "record",
    [
        {"problem": "2 + 3", "cot": "2 + 3 = 5", "answer": "5"},
        {"question": "2 + 3", "answer": "2 + 3 = 5\n#### 5"},
        {"prompt": "2 + 3", "solution": ["2 + 3 = 5"], "answer": 5},
        {"problem": "2 + 3", "cot": "2 + 3 = 5", "cot_answer": "5", "answer": "another column"},
        {"problem": "2 + 3", "cot": "2 + 3 = 5\nThe answer is 5."},
        {"problem": "2 + 3", "cot": "2 + 3 = 5 Therefore, the answer is: 5"},
    ],
)
def test_collections_are_read_by_the_names_that_they_use(tmp_path, record):
    file = tmp_path / "data.jsonl"
    file.write_text(json.dumps(record) + "\n")
    assert read_reasoning(file) == [Reasoning("2 + 3", "2 + 3 = 5", "5")]


@pytest.mark.parametrize(
    ("record", "sentence"),
    [
        ({"problem": "2 + 3", "answer": "5"}, "record 2 has no cot: .* there are problem, answer"),
        ({"cot": "x", "answer": "5"}, "has no problem"),
        ({"problem": "x", "cot": "x"}, "has no answer"),
        ({"problem": "x", "cot": "  ", "answer": "5"}, "a cot that is '  ' and no text"),
        ({"problem": {"a": 1}, "cot": "x", "answer": "5"}, "no text"),
        ([1], "no object with fields"),
    ],
)
def test_a_missing_part_is_named(tmp_path, record, sentence):
    file = tmp_path / "data.jsonl"
    good = {"problem": "2 + 3", "cot": "2 + 3 = 5", "answer": "5"}
    file.write_text(json.dumps(good) + "\n" + json.dumps(record) + "\n")
    with pytest.raises(ValueError, match=sentence):
        read_reasoning(file)


@pytest.mark.parametrize(
    ("chain", "steps"),
    [
        ("one\n\ntwo", ("one", "two")),
        ("<<20*0.45=9>> <<9-1=8>>", ("<<20*0.45=9>>", "<<9-1=8>>")),
        ("3 + 5 = 8 ; 8 * 2 = 16", ("3 + 5 = 8", "8 * 2 = 16")),
        ("She has 2.5 left. So he has 3! Done", ("She has 2.5 left.", "So he has 3!", "Done")),
    ],
)
def test_a_chain_is_cut_into_its_steps(chain, steps):
    assert Reasoning("", chain, "").steps == steps


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([7, 23, 50]))
def test_chains_are_right_and_all_different(seed, modulus):
    found = arithmetic_chains(20, seed=seed, steps=(2, 4), modulus=modulus)
    assert len({example.problem for example in found}) == 20
    for example in found:
        value, *rest = example.problem.removesuffix(" =").split()
        value = int(value)
        assert 2 <= len(example.steps) == len(rest) // 2 <= 4
        for step, sign, number in zip(example.steps, rest[::2], rest[1::2], strict=True):
            result = eval(f"({value} {sign} {number}) % {modulus}")
            assert step == f"{value} {sign} {number} = {result}"
            value = result
        assert example.answer == str(value)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([3, 4]))
def test_countdown_puzzles_are_solved_by_their_solutions(seed, numbers):
    tokenizer = number_tokenizer(396)
    for example in countdown(5, seed=seed, numbers=numbers):
        assert solves_countdown(example.problem, example.cot)
        assert len(example.steps) == numbers - 1 and example.answer == example.steps[-1]
        ids = tokenizer.encode(f"{example.problem} <think> {example.cot} </think>")
        assert tokenizer.unk_token_id not in ids
        others = countdown_solutions(example.problem)
        assert others and all(solves_countdown(example.problem, other) for other in others)


@pytest.mark.parametrize(
    "chain",
    [
        "44 - 15 = 29",  # 79 is not used
        "44 - 15 = 29 ; 79 - 29 = 51",  # wrong
        "44 - 15 = 29 ; 29 + 15 = 44",  # 15 twice
        "15 + 44 = 59 ; 79 - 59 = 20",  # another goal
        "79 / 15 = 5 ; 44 + 5 = 49",  # no whole number
        "",
    ],
)
def test_what_solves_no_countdown_is_seen(chain):
    assert not solves_countdown("15 , 44 , 79 -> 50", chain)
    assert solves_countdown("15,44,79,50", "44-15=29,79-29=50")


def test_too_many_problems_are_refused():
    with pytest.raises(ValueError, match="at most half"):
        arithmetic_chains(1000, seed=0, steps=(1, 1), modulus=3)
    with pytest.raises(ValueError, match="were not found"):
        countdown(500, seed=0, numbers=2, largest=3)


def test_delimiters_that_the_tokenizer_cannot_write_are_refused():
    tokenizer = number_tokenizer(9)
    assert len(delimiter_ids(tokenizer, "</think>")) == 1
    with pytest.raises(ValueError, match="think_close='</thought>' is not in this tokenizer"):
        delimiter_ids(tokenizer, "</thought>", "think_close")


def test_a_prompt_ends_where_the_model_begins_to_write():
    tokenizer = number_tokenizer(9)
    assert tokenizer.decode(prompt_ids(tokenizer, "3 + 4 =")) == "3 + 4 ="
    tokenizer.chat_template = (
        "{% for m in messages %}( {{ m.content }} ){% endfor %}{% if add_generation_prompt %} ->{% endif %}"
    )
    assert tokenizer.decode(prompt_ids(tokenizer, "3 + 4", instruction="5")) == "( 5 3 + 4 ) ->"
