"""The recipe of tiny-llmlingua2, its contexts with facts, and its checkpoint as a user loads it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
szilard = pytest.importorskip("szilard")

from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel, BertTokenizer  # noqa: E402

import szilard_zoo  # noqa: E402
from szilard_zoo import fact_contexts  # noqa: E402
from szilard_zoo import train_tiny_llmlingua2 as recipe  # noqa: E402

NAME = "tiny-llmlingua2"
WIKI = "\n".join(
    f" The river number {line} , which is 3 @,@ 200 km long , "
    + "was in the old town of Berlin and " * 7
    + "that was it ."
    for line in range(12)
)


@pytest.fixture(scope="module")
def compressor():
    if NAME not in szilard_zoo.names():
        pytest.skip("zoo/tiny-llmlingua2 was not trained here: python -m szilard_zoo.train_tiny_llmlingua2")
    return szilard.LlmLingua2(checkpoint=f"zoo/{NAME}")


def words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))


def test_the_checkpoint_is_small_and_says_how_it_was_made() -> None:
    if NAME in szilard_zoo.names():
        folder = szilard_zoo.path(NAME)
        assert (folder / "model.safetensors").stat().st_size < 12e6
        assert {"training.yaml", "metrics.jsonl", "validation.jsonl"} <= {file.name for file in folder.iterdir()}


def test_answers_survive_compression_to_a_third(compressor) -> None:
    contexts = list(fact_contexts.dataset("heldout", 24, seed=11))
    left = compressor.compress([one.text for one in contexts], 0.33)
    survived = [
        asked.answer.lower() in words(shorter.text)
        for one, shorter in zip(contexts, left, strict=True)
        for asked in one.questions
    ]
    assert sum(survived) > 0.9 * len(survived)
    chance = szilard.RandomDropping().compress([one.text for one in contexts], 0.33)
    lucky = [
        asked.answer.lower() in words(shorter.text)
        for one, shorter in zip(contexts, chance, strict=True)
        for asked in one.questions
    ]
    assert sum(lucky) < 0.6 * len(lucky)


def test_names_and_numbers_outlive_function_words(compressor) -> None:
    text = "It was in the year of 1789 that the Bastille in Paris was stormed by some of the people who lived there."
    (left,) = compressor.compress([text], 0.4)
    assert {"1789", "bastille", "paris"} <= words(left.text)
    assert not {"it", "was", "that", "who"} & words(left.text)


def test_a_data_set_is_the_same_for_the_same_seed_and_splits_share_nothing() -> None:
    first, again = (list(fact_contexts.dataset("train", 20, seed=3)) for _ in range(2))
    assert first == again != list(fact_contexts.dataset("train", 20, seed=4))
    assert first[:5] == list(fact_contexts.dataset("train", 5, seed=3))
    for parts in (fact_contexts._STATEMENTS, fact_contexts._TALK, fact_contexts._THINGS):
        assert not set(parts["train"]) & set(parts["heldout"])
    assert not set(fact_contexts._NAMES["train"].split()) & set(fact_contexts._NAMES["heldout"].split())
    with pytest.raises(ValueError, match="split"):
        next(fact_contexts.dataset("test", 1))


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_what_matters_is_in_order_and_every_answer_is_in_it(split) -> None:
    for context in fact_contexts.dataset(split, 60):
        rest = iter(re.findall(r"\w+", context.text))
        assert all(word in rest for word in re.findall(r"\w+", context.compressed))
        assert 2 <= len(context.questions) <= 4
        for asked in context.questions:
            assert len(re.findall(rf"\b{asked.answer}\b", context.text)) >= 1
            assert re.search(rf"\b{asked.answer}\b", context.compressed)


def _encoder(folder: Path) -> None:
    letters = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
    known = [
        "the",
        "old",
        "town",
        "of",
        "was",
        "and",
        "that",
        "it",
        "in",
        "river",
        "number",
        "berlin",
        "long",
        "km",
        "never",
    ]
    tokens = [*recipe._SPECIAL, *letters, *(f"##{letter}" for letter in letters), *known]
    tokenizer = BertTokenizer(vocab={token: index for index, token in enumerate(tokens)})
    tokenizer.save_pretrained(folder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}
        BertModel(BertConfig(vocab_size=len(tokens), **shape)).save_pretrained(folder)


def test_a_cut_encoder_keeps_the_numbers_of_what_it_keeps(tmp_path: Path) -> None:
    _encoder(tmp_path / "whole")
    texts = [one for one, _ in recipe.text_pairs(recipe.running_text(_file(tmp_path)), 20, 0)]
    signs = 5 + 2 * 68 + 1
    recipe.cut_encoder(str(tmp_path / "whole"), texts, tmp_path / "cut", layers=2, pieces=signs + 8)
    before, after = (AutoTokenizer.from_pretrained(tmp_path / name) for name in ("whole", "cut"))
    assert "never" not in after.get_vocab() and {"the", "old", "town"} <= set(after.get_vocab())
    whole, cut = (AutoModel.from_pretrained(tmp_path / name) for name in ("whole", "cut"))
    assert len(cut.encoder.layer) == 2
    for text in ("The old town.", "in 1998!"):
        assert before(text).tokens() == after(text).tokens()
        vectors = [
            model.get_input_embeddings().weight[model_ids]
            for model, model_ids in ((whole, before(text)["input_ids"]), (cut, after(text)["input_ids"]))
        ]
        assert torch.equal(*vectors)


def _file(folder: Path) -> Path:
    file = folder / "wiki.txt"
    file.write_text(f"\n = A title = \n \n{WIKI}\n", encoding="utf-8")
    return file


def test_running_text_reads_as_it_was_written(tmp_path: Path) -> None:
    paragraphs = recipe.running_text(_file(tmp_path))
    assert len(paragraphs) == 12 and paragraphs[0].startswith("The river number 0, which is 3,200 km long, was in")


def test_a_short_run_writes_a_checkpoint_that_compresses(tmp_path: Path) -> None:
    _encoder(tmp_path / "whole")
    config = recipe.ClassifierConfig(steps=3, batch_size=4, held_out=0.1)
    for _ in range(2):  # what is finished is not done again
        recipe.train(
            str(tmp_path / "whole"),
            _file(tmp_path),
            tmp_path / "out",
            work=tmp_path / "work",
            config=config,
            texts=10,
            contexts=10,
            pieces=150,
        )
    assert torch.float16 == AutoModel.from_pretrained(tmp_path / "out", dtype="auto").dtype
    (left,) = szilard.LlmLingua2(checkpoint=str(tmp_path / "out")).compress(["The old town of Berlin was it."], 0.5)
    assert 0 < len(left.text.split()) < 7
