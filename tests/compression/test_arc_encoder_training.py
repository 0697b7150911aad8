"""ARC-Encoder's trainings touch what the paper trains, count the tokens that it counts, and go on after a kill."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from szilard.cli.main import main
from szilard.compression.arc_encoder.config import ArcAddDecoderConfig, ArcConfig, ArcFinetuneConfig
from szilard.compression.arc_encoder.few_shot import FewShotObjective
from szilard.compression.arc_encoder.groups import Pooling
from szilard.compression.arc_encoder.method import ArcEncoder
from szilard.compression.arc_encoder.model import ArcModel
from szilard.compression.arc_encoder.objective import Interleaved, PassageObjective
from szilard.compression.arc_encoder.training import train_arc_encoder
from szilard.compression.passages import Question, as_examples, read_questions
from szilard.engines import TransformersEngine
from szilard.training.hidden_states import Tokens
from szilard.training.loop import read_metrics
from szilard.training.target import Target
from tests.conftest import tiny_model, tiny_tokenizer

SMALL = {"steps": 4, "batch_size": 4, "save_every": 4, "log_every": 2, "warmup": 0.0, "weight_decay": 0.0}
RATES = {"learning_rate": 1e-3, "special_learning_rate": 1e-2, "projector_learning_rate": 1e-3}
PRETRAIN = ArcConfig(**SMALL, **RATES, window=12, target=8, before=6, truncate_layers=1, pooling_factor=4)
FINETUNE = ArcFinetuneConfig(**SMALL, **RATES, window=16, shots=2)


def engine_of(architecture: str = "llama", name: str = "") -> TransformersEngine:
    model: Any = copy.deepcopy(tiny_model(architecture)).float()
    return TransformersEngine(model, tiny_tokenizer(), name=name or architecture)


def words(rng: random.Random, count: int) -> str:
    return " ".join(f"w{rng.randint(7, 60)}" for _ in range(count))


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    rng = random.Random(0)
    file = tmp_path / "texts.jsonl"
    file.write_text("".join(json.dumps({"text": words(rng, 50)}) + "\n" for _ in range(10)))
    return file


@pytest.fixture
def asked(tmp_path: Path) -> Path:
    rng = random.Random(1)
    file = tmp_path / "asked.jsonl"
    records = [
        {
            "context": [words(rng, 9), words(rng, 5)],
            "prompt": words(rng, 3),
            "answer": words(rng, 2),
            "subset": f"s{i % 2}",
        }
        for i in range(12)
    ]
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    return file


def pretrained(engine: TransformersEngine, texts: Path, folder: Path, steps: int = 4) -> Path:
    train_arc_encoder(engine, texts, replace(PRETRAIN, steps=steps), folder)
    return folder


def weights_of(engine: TransformersEngine) -> dict[str, torch.Tensor]:
    return {name: weight.clone() for name, weight in engine.model.state_dict().items()}


def unchanged(engine: TransformersEngine, before: dict[str, torch.Tensor]) -> bool:
    now = engine.model.state_dict()
    same = all(torch.equal(weight, now[name]) for name, weight in before.items())
    return same and all(weight.grad is None for weight in engine.model.parameters())


# ---- what learns -----------------------------------------------------------------------------------------------------


def test_pre_training_changes_all_of_the_encoder_and_nothing_of_the_decoder(texts: Path, tmp_path: Path) -> None:
    engine = engine_of()
    before = weights_of(engine)
    metrics = train_arc_encoder(engine, texts, replace(PRETRAIN, reconstruction=0.5, steps=8), tmp_path / "arc")
    assert unchanged(engine, before)
    assert {"nll", "nll_without", "nll_full", "closed", "nll_reconstruction", "copied"} <= set(metrics)
    arc = ArcEncoder.from_pretrained(tmp_path / "arc")
    start = ArcModel.made_of(engine, {"llama": engine}, pooling=Pooling((4,)), truncate_layers=1)
    for (name, found), begun in zip(arc.model().named_parameters(), start.parameters(), strict=True):
        assert not torch.equal(found, begun), name
    assert arc.compress(["w9 w10 w11 w12 w13"], engine=engine)[0].positions == 3


def test_parts_learn_at_their_own_rates() -> None:
    engine = engine_of()
    arc = ArcModel.made_of(engine, {"a": engine}, pooling=Pooling((4,)), truncate_layers=1)
    objective = PassageObjective(arc, {"a": engine}, replace(PRETRAIN, learning_rate=1.0, projector_learning_rate=3.0))
    rates = {name: objective.learning_rate_of(name) for name, _ in objective.named_parameters()}
    assert rates.pop("sides.a.cont") == rates.pop("sides.a.rec") == 1e-2
    assert rates.pop("sides.a.down.weight") == rates.pop("sides.a.up.weight") == 3.0
    assert set(rates.values()) == {1.0} and "encoder.embed_tokens.weight" in rates


def test_a_resumed_training_is_the_uninterrupted_one(texts: Path, tmp_path: Path, monkeypatch: Any) -> None:
    pretrained(engine_of(), texts, tmp_path / "whole", 8)
    forward, calls = PassageObjective.forward, [0]

    def stopped(self: Any, **batch: Any) -> Any:
        calls[0] += 1
        if calls[0] == 7:
            raise KeyboardInterrupt
        return forward(self, **batch)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(PassageObjective, "forward", stopped)
        pretrained(engine_of(), texts, tmp_path / "cut", 8)
    pretrained(engine_of(), texts, tmp_path / "cut", 8)
    whole, cut = (ArcModel.from_pretrained(tmp_path / name).state_dict() for name in ("whole", "cut"))
    assert all(torch.equal(cut[name], weight) for name, weight in whole.items())
    rows = [[row["loss"] for row in read_metrics(tmp_path / name / "metrics.jsonl")] for name in ("whole", "cut")]
    assert rows[0] == rows[1]


def test_fine_tuning_goes_on_from_a_checkpoint(texts: Path, asked: Path, tmp_path: Path) -> None:
    engine = engine_of()
    before = weights_of(engine)
    folder = pretrained(engine, texts, tmp_path / "arc")
    config = replace(FINETUNE, checkpoint=str(folder), pooling_factor=2)
    metrics = train_arc_encoder(engine, asked, config, tmp_path / "tuned")
    assert unchanged(engine, before) and {"nll", "nll_without", "nll_full", "right"} <= set(metrics)
    tuned = ArcEncoder.from_pretrained(tmp_path / "tuned").model()
    assert tuned.pooling == Pooling((2,))
    begun = ArcModel.from_pretrained(folder)
    assert not torch.equal(tuned.encoder.embed_tokens.weight, begun.encoder.embed_tokens.weight)
    frozen = replace(config, freeze_encoder=True)
    train_arc_encoder(engine, asked, frozen, tmp_path / "frozen")
    kept = ArcModel.from_pretrained(tmp_path / "frozen")
    assert all(torch.equal(a, b) for a, b in zip(kept.encoder.parameters(), begun.encoder.parameters(), strict=True))
    assert not torch.equal(kept.sides["llama"].down.weight, begun.sides["llama"].down.weight)  # type: ignore[union-attr]


def test_a_decoder_that_is_added_leaves_the_encoder_and_the_other_sides(texts: Path, tmp_path: Path) -> None:
    first, second = engine_of(), engine_of("qwen3")
    folder = pretrained(first, texts, tmp_path / "arc")
    before, begun = weights_of(second), ArcModel.from_pretrained(folder).state_dict()
    config = ArcAddDecoderConfig(**SMALL, window=12, target=8, before=0)
    arc = ArcEncoder.from_pretrained(folder).add_decoder(
        "new", second, data=texts, output=tmp_path / "more", config=config
    )
    assert unchanged(second, before)
    now = arc.model().state_dict()
    assert all(torch.equal(now[name], weight) for name, weight in begun.items())
    assert {name for name in now if name not in begun} == {
        *("sides.new.cont", "sides.new.rec", "sides.new.down.weight", "sides.new.up.weight")
    }
    assert not bool((now["sides.new.cont"] == 1).any())
    assert arc.compress(["w9 w10"], engine=second)[0].model == second.fingerprint
    checkpoint = next((tmp_path / "more" / "checkpoints").glob("checkpoint-4")) / "model.safetensors"
    assert checkpoint.stat().st_size < (tmp_path / "more" / "model.safetensors").stat().st_size / 3


@pytest.mark.parametrize("how", ["uniform", "alternating"])
def test_several_decoders_are_trained_in_turn(how: str, texts: Path, tmp_path: Path) -> None:
    engines = [engine_of("llama", "a"), engine_of("qwen2", "b")]
    before = [weights_of(engine) for engine in engines]
    config = replace(PRETRAIN, decoder_steps=how)
    metrics = train_arc_encoder(engines[0], texts, config, tmp_path / "arc", others=engines[1:])
    assert {"nll_a", "nll_b"} <= set(metrics)
    assert all(unchanged(engine, weights) for engine, weights in zip(engines, before, strict=True))
    arc = ArcEncoder.from_pretrained(tmp_path / "arc")
    for engine in engines:
        assert not bool((arc.model().sides[engine.name].cont == 1).any())  # type: ignore[union-attr, operator]
        assert arc.compress(["w9 w10"], engine=engine)[0].trace["decoder"] == engine.name


# ---- what counts -----------------------------------------------------------------------------------------------------


def objective_of(engine: TransformersEngine, config: ArcConfig, **options: Any) -> PassageObjective:
    arc = ArcModel.made_of(
        engine, {"a": engine}, pooling=Pooling((4,)), truncate_layers=1, specials=not config.instruct, **options
    )
    return PassageObjective(arc, {"a": engine}, config)


@torch.no_grad()
@pytest.mark.parametrize("task", ["rec", "cont"])
def test_outputs_at_vectors_are_dropped_and_text_in_front_is_no_target(task: str) -> None:
    engine = engine_of()
    objective = objective_of(engine, replace(PRETRAIN, reconstruction=float(task == "rec"), before=3)).eval()
    context, target, front = torch.arange(7, 17), torch.arange(20, 28), torch.arange(30, 33)
    sizes = set()
    for step in range(12):
        objective.done.fill_(step)
        found = objective([context], [target], [front])
        kept = 0 if task == "rec" else int(_kept(objective, len(front)))
        sizes.add(kept)
        special = getattr(objective.arc.sides["a"], task)
        states = objective.arc.encode([context])[0]
        vectors = objective.arc.sides["a"].up(objective.arc.sides["a"].down(torch.cat([states, special[None]])))
        wanted = context if task == "rec" else target
        embed = engine.model.get_input_embeddings()
        inputs = torch.cat([embed(front[len(front) - kept :]), vectors, embed(wanted)])
        logits = engine.model(inputs_embeds=inputs[None]).logits[0]
        own = logits[-len(wanted) : -1]  # the first token behind the vectors is read, not learned
        torch.testing.assert_close(found["loss"], functional.cross_entropy(own, wanted[1:]))
    assert sizes == ({0} if task == "rec" else {0, 1, 2, 3})


def _kept(objective: PassageObjective, length: int) -> torch.Tensor:
    """The objective's third draw."""
    generator = objective.draws()
    torch.randint(1, (), generator=generator)
    torch.rand((), generator=generator)
    return torch.randint(length + 1, (), generator=generator)


@torch.no_grad()
def test_a_decoder_that_is_asked_in_words_gets_no_special_token_and_every_token_counts() -> None:
    engine = engine_of()
    objective = objective_of(engine, replace(PRETRAIN, instruct=True, reconstruction=0.0)).eval()
    context, target = torch.arange(7, 17), torch.arange(20, 28)
    found = objective([context], [target], [target[:0]])
    head, tail = objective.wraps["a", "cont"]
    assert objective.vectors([context.tolist()], "a")[0].shape[0] == 3
    embed = engine.model.get_input_embeddings()
    parts = [embed(torch.tensor(head)), objective.vectors([context.tolist()], "a")[0], embed(torch.tensor(tail))]
    logits = engine.model(inputs_embeds=torch.cat([*parts, embed(target)])[None]).logits[0]
    torch.testing.assert_close(found["loss"], functional.cross_entropy(logits[-len(target) - 1 : -1], target))


def test_the_share_of_reconstruction_is_that_of_the_batches() -> None:
    objective = objective_of(engine_of(), PRETRAIN)
    tasks: list[str] = []
    objective.vectors = lambda *_: []  # type: ignore[method-assign]
    objective.forced = lambda *parts: tasks.append(parts[-1]) or _Nothing()  # type: ignore[method-assign]
    for _ in range(200):
        objective([torch.arange(7, 12)], [torch.arange(7, 12)], [torch.arange(0)])
    assert 20 <= tasks.count("rec") <= 60 and int(objective.done) == 200


class _Nothing:
    loss = right = torch.zeros(())


def test_passages_know_what_stands_in_front_of_them() -> None:
    engine = engine_of()
    questions = [Question((" ".join(f"w{i}" for i in range(10, 40)),), "w50", "w51 w52")]
    tokens = Tokens(Target(engine), as_examples(questions, engine.tokenizer))
    passages = Interleaved(tokens, 6, 4, 8)
    assert passages[0]["before"].tolist() == [] and passages[1]["before"].tolist() == tokens.ids[2:10].tolist()
    assert torch.cat([passages[1]["context"], passages[1]["target"]]).tolist() == tokens.ids[10:20].tolist()


@torch.no_grad()
def test_every_document_of_a_few_shot_prompt_is_compressed_and_the_last_answer_counts(asked: Path) -> None:
    engine = engine_of()
    arc = ArcModel.made_of(engine, {"a": engine}, pooling=Pooling((4,)), truncate_layers=1)
    questions = read_questions(asked)
    subsets = [f"s{index % 2}" for index in range(12)]
    objective = FewShotObjective(arc, {"a": engine}, FINETUNE, questions, subsets, range(12)).eval()
    shots = objective.shots(5, torch.Generator().manual_seed(0))
    assert len(shots) == 3 and shots[-1] == 5 and all(number % 2 for number in shots) and len(set(shots)) == 3
    found = objective.forced([shots], "a")
    method, parts = ArcEncoder(checkpoint=arc), []
    for number in shots:
        one = questions[number]
        closed = f" {one.answer}\n\n" if number != 5 else ""
        document = method.document("\n".join(one.contexts))
        parts += ["Document: ", document, f"\nQuestion: {one.prompt}\nAnswer:{closed}"]
    inputs = method.prompt(parts, engine)
    answer = torch.tensor([*engine.tokenizer.encode(questions[5].answer), engine.tokenizer.eos_token_id])
    embeddings = torch.cat([inputs["inputs_embeds"][0], engine.model.get_input_embeddings()(answer)])
    logits = engine.model(inputs_embeds=embeddings[None]).logits[0, -len(answer) - 1 : -1]
    torch.testing.assert_close(found.loss, functional.cross_entropy(logits, answer))


def test_a_tokenizer_of_its_own_reads_the_text_again(texts: Path, tmp_path: Path) -> None:
    engine, source = engine_of(), engine_of("qwen2")
    source.tokenizer.add_tokens(["other"])
    metrics = train_arc_encoder(engine, texts, PRETRAIN, tmp_path / "arc", source=source)
    assert metrics["nll"] > 0
    objective = objective_of(engine, PRETRAIN)
    objective.encoder_shares, objective.shares["a"] = False, False
    rows = [torch.arange(10, 20)]
    assert objective.for_encoder(rows) == [list(range(10, 20))]
    assert objective.for_decoder(rows, "a")[0].tolist() == list(range(10, 20))


# ---- the command, and what is refused --------------------------------------------------------------------------------


def test_the_command_trains_all_stages(
    texts: Path, asked: Path, model_folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = f"train arc-encoder --model {model_folder} --steps 2 --batch-size 2 --dtype float32".split()
    sizes = ["--window", "12", "--target", "8", "--before", "4", "--truncate-layers", "1", "--bottleneck", "6"]
    assert main([*common, *sizes, "--data", str(texts), "-o", str(tmp_path / "arc")]) == 0
    again = ["--checkpoint", str(tmp_path / "arc"), "--stage", "finetune", "--shots", "1", "--window", "16"]
    assert main([*common, *again, "--data", str(asked), "-o", str(tmp_path / "tuned")]) == 0
    arc = ArcModel.from_pretrained(tmp_path / "tuned")
    assert arc.pooling == Pooling((8,)) and next(iter(arc.decoders.values()))["bottleneck"] == 6
    assert main([*common, "--stage", "finetune", "--data", str(asked), "-o", str(tmp_path / "no")]) == 2
    assert main([*common, "--stage", "other", "--data", str(asked), "-o", str(tmp_path / "no")]) == 2
    common[common.index("--dtype") :] = ["--device", "cuda:1"]  # one of several processes chooses its own
    assert main([*common, *sizes, "--data", str(texts), "-o", str(tmp_path / "no")]) == 2
    assert "CUDA_VISIBLE_DEVICES" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: ArcConfig(pooling_factor=None), "needs pooling_factor or vectors"),
        (lambda: ArcConfig(checkpoint="x"), "pretrain makes a new encoder"),
        (lambda: ArcAddDecoderConfig(freeze_encoder=False), "leave freeze_encoder on"),
        (lambda: ArcFinetuneConfig(queries="last"), "queries is settled by the checkpoint"),
        (lambda: ArcConfig(reconstruction=1.5), "reconstruction must be between 0 and 1"),
        (lambda: ArcConfig(attention="both"), "attention must be one of"),
    ],
)
def test_a_wrong_setting_is_refused_in_a_sentence(make: Callable[[], ArcConfig], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        make()


def test_decoders_that_do_not_fit_are_refused(texts: Path, asked: Path, tmp_path: Path) -> None:
    engine = engine_of()
    with pytest.raises(ValueError, match="as many different names"):
        train_arc_encoder(engine, texts, PRETRAIN, tmp_path / "a", others=[engine_of()])
    folder = pretrained(engine, texts, tmp_path / "arc")
    config = replace(FINETUNE, checkpoint=str(folder))
    with pytest.raises(ValueError, match="none of its decoders"):
        train_arc_encoder(engine_of("qwen2"), asked, config, tmp_path / "b")
    with pytest.raises(ValueError, match="begins with a trained encoder"):
        train_arc_encoder(engine, asked, FINETUNE, tmp_path / "c")
    engine.tokenizer.chat_template = None
    with pytest.raises(ValueError, match="has no chat template"):
        train_arc_encoder(engine, texts, replace(PRETRAIN, instruct=True), tmp_path / "d")
