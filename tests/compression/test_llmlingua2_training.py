"""From pairs to a classifier: what is learned, from which tokens, and what a stopped run does."""

from __future__ import annotations

import json
import random

import pytest
import torch
from transformers import AutoModelForTokenClassification, AutoTokenizer, BertConfig, BertModel, TrainerCallback

from szilard.cli.main import main
from szilard.compression.llmlingua2 import training
from szilard.compression.llmlingua2.annotation import annotate_pairs
from szilard.compression.llmlingua2.classifier import positions
from szilard.compression.llmlingua2.training import Collate, KeepObjective, Stretches, train_classifier
from szilard.compression.llmlingua2.training_config import ClassifierConfig
from szilard.registry import make_compressor

from .tiny_classifiers import bert_tokenizer, xlm_roberta_classifier

FAST = {"batch_size": 8, "learning_rate": 3e-3, "save_every": 10, "held_out": 0.2}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder")
    tokenizer = bert_tokenizer()
    tokenizer.save_pretrained(folder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
        model = BertModel(BertConfig(vocab_size=len(tokenizer), max_position_embeddings=128, **shape))
    model.save_pretrained(folder)
    return str(folder)


def pairs(count: int, seed: int = 0) -> list[tuple[str, str]]:
    """Function words around names and numbers; the teacher keeps the latter."""
    rng = random.Random(seed)
    talk, facts = "the of and to in is was for on that with as by at it".split(), "code city river song market".split()
    found = []
    for _ in range(count):
        words = rng.choices(talk, k=8) + rng.choices(facts, k=2) + [str(rng.randrange(1000))]
        rng.shuffle(words)
        found.append((" ".join(words), " ".join(word for word in words if word not in talk)))
    return found


def test_special_tokens_and_padding_have_no_loss(encoder):
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    data = Stretches(annotate_pairs([("the code of it", "code"), ("the", "")]), tokenizer, 64)
    assert data[0]["labels"] == [-100, 0, 1, 0, 0, -100]
    batch = Collate(tokenizer.pad_token_id)([data[0], data[1]])
    assert batch["labels"][1].tolist() == [-100, 0, -100, -100, -100, -100]
    assert batch["attention_mask"].sum(1).tolist() == [6, 3]


def test_padding_changes_no_loss(encoder):
    classifier, tokenizer = training.load_classifier(encoder, 0)
    objective = KeepObjective(classifier.eval())
    data = Stretches(annotate_pairs(pairs(2)), tokenizer, 64)
    collate = Collate(tokenizer.pad_token_id)
    alone = objective(**collate([data[0]]))["loss"]
    batch = collate([data[0], data[1]])
    batch["labels"][1] = -100
    batch = {
        name: torch.nn.functional.pad(t, (0, 3), value=-100 if name == "labels" else 0) for name, t in batch.items()
    }
    torch.testing.assert_close(objective(**batch)["loss"], alone)


def test_long_originals_are_cut_and_every_token_is_learned_from_once(encoder):
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    text = " ".join(["the code"] * 40)
    (annotation,) = annotate_pairs([(text, " ".join(["code"] * 40))])
    data = Stretches([annotation], tokenizer, 20)
    labels = [label for example in data for label in example["labels"] if label != -100]
    assert len(data) == 5 and labels == [0, 1] * 40
    assert max(len(example["input_ids"]) for example in data) == 20


def test_an_encoder_that_counts_positions_behind_its_padding_has_fewer_of_them():
    config = xlm_roberta_classifier().config
    assert positions(config) == config.max_position_embeddings - config.pad_token_id - 1
    assert positions(BertConfig(max_position_embeddings=40)) == 40


def test_a_trained_classifier_drops_what_its_teacher_drops(encoder, tmp_path):
    metrics = train_classifier(pairs(160), encoder, ClassifierConfig(epochs=4, **FAST), tmp_path, device="cpu")
    assert metrics["accuracy"] > 0.95 and metrics["pairs"] == metrics["left"] == 160
    model = AutoModelForTokenClassification.from_pretrained(tmp_path)
    assert model.config.id2label == {0: "drop", 1: "keep"} and (tmp_path / "model.safetensors").is_file()
    compressor = make_compressor("llmlingua2", {"checkpoint": str(tmp_path), "max_length": 128})
    (left,) = compressor.compress(["it was in the city that code 4817 is for"], 0.5)
    assert "4817" in left.text and "code" in left.text and "that" not in left.text.split()


def test_the_best_epoch_stays(encoder, tmp_path, monkeypatch):
    scores = iter([0.6, 0.9, 0.7, 0.9, 0.5])
    weights = []

    def measured(classifier, *arguments, **options):
        weights.append(classifier.classifier.weight.detach().clone())
        return dict.fromkeys(("accuracy", "precision", "recall", "f1"), next(scores))

    monkeypatch.setattr(training, "measure", measured)
    train_classifier(pairs(40), encoder, ClassifierConfig(epochs=4, **FAST), tmp_path, device="cpu")
    kept = AutoModelForTokenClassification.from_pretrained(tmp_path).classifier.weight
    assert torch.equal(kept, weights[1]) and not torch.equal(kept, weights[3])
    rows = [json.loads(line) for line in (tmp_path / "validation.jsonl").read_text().splitlines()]
    assert [row["accuracy"] for row in rows] == [0.6, 0.9, 0.7, 0.9]


class _Stop(TrainerCallback):
    def on_step_end(self, args, state, control, **_):
        if state.global_step == 13:
            raise KeyboardInterrupt


def test_a_stopped_run_ends_as_an_undisturbed_one(encoder, tmp_path, monkeypatch):
    config = ClassifierConfig(epochs=4, **FAST)
    whole = train_classifier(pairs(50), encoder, config, tmp_path / "whole", device="cpu")
    fit = training.fit
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        stopping = lambda *given, callbacks, **options: fit(*given, callbacks=[*callbacks, _Stop()], **options)  # noqa: E731
        patched.setattr(training, "fit", stopping)
        train_classifier(pairs(50), encoder, config, tmp_path / "cut", device="cpu")
    assert train_classifier(pairs(50), encoder, config, tmp_path / "cut", device="cpu") == whole
    for name in ("model.safetensors", "validation.jsonl"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_another_run_in_the_folder_is_not_written_over(encoder, tmp_path):
    train_classifier(pairs(20), encoder, ClassifierConfig(steps=2, **FAST), tmp_path, device="cpu")
    with pytest.raises(ValueError, match="other settings or pairs"):
        train_classifier(pairs(20, seed=1), encoder, ClassifierConfig(steps=2, **FAST), tmp_path, device="cpu")
    train_classifier(pairs(20, 1), encoder, ClassifierConfig(steps=2, **FAST), tmp_path, restart=True, device="cpu")


def test_unusable_input_is_refused_in_a_sentence(encoder, tmp_path):
    with pytest.raises(ValueError, match="no encoder"):
        train_classifier(pairs(4), str(tmp_path / "nowhere"), ClassifierConfig(), tmp_path / "out")
    with pytest.raises(ValueError, match="no pair"):
        train_classifier([], encoder, ClassifierConfig(), tmp_path / "out")
    with pytest.raises(ValueError, match="leave no pair"):
        train_classifier([("a b", "x")] * 3, encoder, ClassifierConfig(), tmp_path / "out")


def test_the_command_trains_from_texts_with_the_rule_teacher(encoder, tmp_path, capsys):
    texts = tmp_path / "texts.txt"
    texts.write_text("\n\n".join(f"It was so. The code of Berta in {year} was {7 * year}." for year in range(30)))
    out = tmp_path / "out"
    command = ["train", "llmlingua2", "--data", str(texts), "-m", encoder, "-o", str(out), "--steps", "2"]
    assert main([*command, "--device", "cpu"]) == 0
    assert len((out / "pairs.jsonl").read_text().splitlines()) == 30
    assert (out / "model.safetensors").is_file() and "30 of 30 pairs" in " ".join(capsys.readouterr().err.split())
    other = ["--data", str(texts), "-m", encoder, "-o", str(tmp_path / "other"), "--lemmas", "no_such_pipeline"]
    assert main(["train", "llmlingua2", *other]) == 2 and not (tmp_path / "other").exists()
    assert "needs spaCy with this pipeline" in " ".join(capsys.readouterr().err.split())
    assert main(["train", "llmlingua2", "-m", encoder, "-o", str(out)]) == 2
    assert "either --pairs" in " ".join(capsys.readouterr().err.split())
