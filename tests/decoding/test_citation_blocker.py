"""The citation blocker: what a model was tuned on cannot be written again at length."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LogitsProcessorList, PreTrainedTokenizerFast

from szilard.cli.main import main
from szilard.decoding.citation_blocker import CitationBlocker
from szilard.decoding.word_starts import word_edges
from szilard.information import SpanIndex, longest_overlap
from tests.conftest import prompt_batch, tiny_model, tiny_tokenizer

LEARNED = [[1, 2, 3, 4, 5, 6, 7]]


def blocked(blocker: CitationBlocker, rows: list[list[int]], vocab: int = 12) -> list[list[int]]:
    left = blocker(torch.tensor(rows), torch.zeros(len(rows), vocab))
    return [torch.isneginf(row).nonzero().flatten().tolist() for row in left]


def test_the_token_that_followed_is_forbidden_and_no_other() -> None:
    blocker = CitationBlocker(LEARNED, word_boundary=False)
    assert blocked(blocker, [[9, 1, 2, 3, 4, 5]]) == [[6]]
    assert blocked(blocker, [[9, 1, 2, 3, 4, 6]]) == [[]]
    assert blocked(blocker, [[1, 2, 3, 4]]) == [[]]
    assert blocked(blocker, [[3, 4, 5, 6, 7]]) == [[]]  # nothing followed


def test_rows_of_a_batch_are_looked_at_each_for_itself() -> None:
    blocker = CitationBlocker([*LEARNED, [1, 2, 3, 4, 5, 8]], word_boundary=False)
    assert blocked(blocker, [[1, 2, 3, 4, 5], [2, 3, 4, 5, 6], [5, 4, 3, 2, 1]]) == [[6, 8], [7], []]


def test_a_model_that_knows_fewer_tokens_than_the_set_is_forbidden_what_it_knows() -> None:
    blocker = CitationBlocker([*LEARNED, [1, 2, 3, 4, 5, 8]], word_boundary=False)
    assert blocked(blocker, [[1, 2, 3, 4, 5]], vocab=8) == [[6]]


def test_two_occurrences_with_different_successors_forbid_both() -> None:
    assert blocked(CitationBlocker([[1, 2, 3, 4, 5, 6, 1, 2, 3, 4, 5, 8]], word_boundary=False), [[1, 2, 3, 4, 5]]) == [
        [6, 8]
    ]


def test_scores_given_are_not_written_to_and_others_stay() -> None:
    scores = torch.randn(1, 12, generator=torch.Generator().manual_seed(0))
    before = scores.clone()
    left = CitationBlocker(LEARNED, word_boundary=False)(torch.tensor([[1, 2, 3, 4, 5]]), scores)
    assert torch.equal(scores, before)
    others = [token for token in range(12) if token != 6]
    assert torch.equal(left[:, others], before[:, others]) and torch.isneginf(left[0, 6])


def test_where_everything_would_be_forbidden_nothing_is() -> None:
    every = [[0, 0, token] for token in range(4)]
    blocker = CitationBlocker(every, window=2, word_boundary=False)
    assert blocked(blocker, [[0, 0], [0, 1]], vocab=4) == [[], []]
    scores = torch.tensor([[float("-inf"), 1.0, 2.0, float("-inf")]])  # what others left
    assert torch.equal(blocker(torch.tensor([[0, 0]]), scores), scores)


def test_the_prompt_counts_unless_it_is_left_out() -> None:
    rows = [[1, 2, 3, 4, 5]]
    assert blocked(CitationBlocker(LEARNED, word_boundary=False), rows) == [[6]]
    assert blocked(CitationBlocker(LEARNED, word_boundary=False, prompt_length=1), rows) == [[]]
    assert blocked(CitationBlocker(LEARNED, word_boundary=False, prompt_length=1), [[9, *rows[0]]]) == [[6]]


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 3))
def test_a_blocked_text_holds_no_span_longer_than_the_window(seed, window) -> None:
    model = tiny_model("llama")
    inputs = prompt_batch(2, seed=seed)
    plain = model.generate(**inputs, max_new_tokens=24, do_sample=False, eos_token_id=None)[:, 11:]
    blocker = CitationBlocker(plain, window=window, word_boundary=False, prompt_length=11)
    again = model.generate(
        **inputs, max_new_tokens=24, do_sample=False, eos_token_id=None, logits_processor=LogitsProcessorList([blocker])
    )[:, 11:]
    index = SpanIndex(plain)
    assert all(longest_overlap(row, index) <= window for row in again)
    assert not torch.equal(plain, again)


def test_engines_take_it_like_any_processor(engine) -> None:
    plain = engine.generate("w9 w10 w11", max_new_tokens=20, raw=True)
    blocker = CitationBlocker([plain.tokens], window=3, tokenizer=engine.tokenizer)  # every token is a word here
    again = engine.generate("w9 w10 w11", max_new_tokens=20, raw=True, logits_processor=[blocker])
    assert longest_overlap(plain.tokens, SpanIndex([plain.tokens])) == len(plain.tokens) > 4
    assert longest_overlap(again.tokens, SpanIndex([plain.tokens])) <= 3


def tokenizer_of(words: list[str]) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.WordLevel({word: at for at, word in enumerate(words)}, unk_token=words[0]))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token=words[0])


CONVENTIONS = {
    # token: (opens a word whatever stands before it, ends one whatever follows)
    "byte-level": {
        "<unk>": (True, True),
        "Ġthe": (True, False),
        "ing": (False, False),
        "Ċ": (True, True),
        ".": (True, True),
        "Ġ": (True, True),
        "7": (False, False),
        "Ã©": (False, False),  # é, whole
        "Ã": (False, False),  # its first byte
        "©": (False, False),  # its second
        "à¥ģ": (False, False),  # a Hindi vowel sign, which stands on the letter before it
    },
    "sentencepiece": {
        "<unk>": (True, True),
        "▁the": (True, False),
        "ing": (False, False),
        "<0x0A>": (True, True),
        "<0xC3>": (False, False),
        ",": (True, True),
        "▁": (True, True),
    },
    "wordpiece": {"[UNK]": (True, True), "play": (True, False), "##ing": (False, False), ".": (True, True)},
    "words": {"<unk>": (True, True), "w1": (True, True), "w2": (True, True)},
}


@pytest.mark.parametrize("name", CONVENTIONS)
def test_words_begin_where_the_tokenizer_says(name) -> None:
    wanted = CONVENTIONS[name]
    opens, ends = word_edges(tokenizer_of(list(wanted)), len(wanted) + 3)
    found = dict(zip(wanted, zip(opens.tolist(), ends.tolist(), strict=False), strict=False))
    assert found == wanted
    assert opens[-3:].all() and ends[-3:].all()  # rows beyond the tokenizer


def test_no_word_is_broken_in_two() -> None:
    words = ["<unk>", "Ġplay", "ing", "Ġthe", "Ġa", "Ġb", "Ġc", "."]
    tokenizer = tokenizer_of(words)
    inside = [4, 5, 6, 4, 1, 2]  # a b c a play|ing
    blocker = CitationBlocker([inside, [4, 5, 6, 4, 2, 2], [4, 5, 6, 4, 1, 3]], tokenizer=tokenizer)
    assert blocked(blocker, [[4, 5, 6, 4, 1]], vocab=8) == [[3]]  # "ing" would end the word "play"; " the" is new
    assert blocked(blocker, [[4, 5, 6, 4, 2]], vocab=8) == [[]]
    behind = CitationBlocker([[4, 5, 6, 4, 7, 2]], tokenizer=tokenizer)
    assert blocked(behind, [[4, 5, 6, 4, 7]], vocab=8) == [[2]]  # behind a full stop every token begins a word


def test_bad_settings_are_told_in_a_sentence() -> None:
    with pytest.raises(ValueError, match="needs the model's tokenizer"):
        CitationBlocker(LEARNED)
    with pytest.raises(ValueError, match="nothing would be blocked"):
        CitationBlocker([[1, 2, 3]], word_boundary=False)
    with pytest.raises(ValueError, match="window must be at least 1"):
        CitationBlocker(LEARNED, window=0, word_boundary=False)
    with pytest.raises(ValueError, match="encode texts first"):
        CitationBlocker(["Once upon a time there was a"], word_boundary=False)
    with pytest.raises(TypeError, match="word_boundary must be True or False"):
        CitationBlocker(LEARNED, word_boundary="yes")


def test_the_command_line_blocks_texts(model_folder, tmp_path, capsys) -> None:
    command = ["generate", "w9 w10 w11", "-m", str(model_folder), "--raw", "-n", "16", "--json"]
    assert main(command) == 0
    plain = json.loads(capsys.readouterr().out)["text"]
    file = tmp_path / "learned.jsonl"
    file.write_text(json.dumps({"text": plain}))
    assert main([*command, "--block-citations", str(file)]) == 0
    again = json.loads(capsys.readouterr().out)["text"]
    tokenizer = tiny_tokenizer()
    index = SpanIndex([tokenizer.encode(plain)])
    assert longest_overlap(tokenizer.encode(again), index) <= 5 < longest_overlap(tokenizer.encode(plain), index)
    assert main([*command, "--block-citations", str(tmp_path)]) == 2
    assert "trained-on.safetensors" in capsys.readouterr().err
