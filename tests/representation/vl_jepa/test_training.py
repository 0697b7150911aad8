"""Training VL-JEPA: its stages, its resumption, and `szilard train vl-jepa`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from szilard.cli.main import main
from szilard.representation.vl_jepa.config import VLJEPAConfig
from szilard.representation.vl_jepa.decoder import YDecoder, YDecoderObjective
from szilard.representation.vl_jepa.model import VLJEPA
from szilard.representation.vl_jepa.objective import Collator, VLJEPAObjective
from szilard.representation.vl_jepa.scenes import Example, Scenes
from szilard.representation.vl_jepa.training import build, train_vl_jepa
from szilard.representation.vl_jepa.training_data import Both, pair_data, scene_data
from szilard.training.loop import read_metrics
from tests.representation.vl_jepa.small import pictures, small

TINY = VLJEPAConfig(
    embed_dim=12,
    width=16,
    layers=1,
    text_width=16,
    text_layers=1,
    vision_width=16,
    vision_layers=1,
    heads=2,
    size=16,
    batch_size=8,
    steps=4,
    vision_steps=2,
    decoder_steps=2,
    scenes=24,
    held_out=8,
    log_every=1,
    save_every=2,
)
STAGES = ("vision", "captions", "questions", "decoder")


def losses(folder: Path) -> dict[str, list[float]]:
    return {name: [row["loss"] for row in read_metrics(folder / name / "metrics.jsonl")] for name in STAGES}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    train_vl_jepa(TINY, folder, device="cpu")
    return folder


def test_all_stages_run_and_leave_a_model_a_decoder_and_their_numbers(whole: Path) -> None:
    assert {name: len(rows) for name, rows in losses(whole).items()} == dict(zip(STAGES, (2, 4, 4, 2), strict=True))
    model = VLJEPA.from_pretrained(whole)
    decoder = YDecoder.from_pretrained(whole / "y_decoder")
    with torch.no_grad():
        texts = decoder.decode(model.predict(pictures(2), "how many do you see ?"))
    assert len(texts) == 2
    card = (whole / "README.md").read_text(encoding="utf-8")
    assert "24 generated scenes" in card and "| retrieval |" in card and "| vqa |" in card
    learned = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    assert f"of which {learned:,} learn" in card and learned < sum(weight.numel() for weight in model.parameters())
    settings = json.loads((whole / "config.json").read_text(encoding="utf-8"))
    assert set(settings["trained_on"]["held out"]) >= {"classification", "retrieval", "vqa", "count"}


def test_the_vision_encoder_learns_in_its_own_stage_only(whole: Path) -> None:
    first = build(TINY, scene_data(TINY).words).x_encoder.state_dict()
    last = VLJEPA.from_pretrained(whole).x_encoder.state_dict()
    assert any(not torch.equal(first[name], last[name]) for name in first)
    from safetensors.torch import load_file

    alone = load_file(whole / "vision" / "best.safetensors")
    assert all(torch.equal(alone[f"encoder.{name}"], value) for name, value in last.items())
    assert not any("x_encoder" in name for name in load_file(whole / "captions" / "best.safetensors"))


@pytest.mark.parametrize(("objective", "at"), [(VLJEPAObjective, 7), (YDecoderObjective, 2)])
def test_a_killed_run_goes_on_to_the_same_losses_and_weights(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, objective: type[torch.nn.Module], at: int
) -> None:
    class Killed(Exception):
        pass

    count, forward = 0, objective.forward

    def dying(self: torch.nn.Module, *given: torch.Tensor, **named: torch.Tensor) -> dict[str, torch.Tensor]:
        nonlocal count
        count += 1
        if count == at:
            raise Killed
        return forward(self, *given, **named)

    with monkeypatch.context() as patched:
        patched.setattr(objective, "forward", dying)
        with pytest.raises(Killed):
            train_vl_jepa(TINY, tmp_path, device="cpu")
    assert not (tmp_path / "model.safetensors").exists()
    torch.manual_seed(999)  # what else was drawn in the process plays no part
    train_vl_jepa(TINY, tmp_path, device="cpu")
    assert losses(tmp_path) == losses(whole)
    for folder, kind in ((".", VLJEPA), ("y_decoder", YDecoder)):
        one, other = (kind.from_pretrained(where / folder).state_dict() for where in (whole, tmp_path))
        assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_other_settings_in_the_same_folder_are_refused(whole: Path) -> None:
    with pytest.raises(ValueError, match="other settings or data"):
        train_vl_jepa(replace(TINY, learning_rate=2e-3), whole, device="cpu")


def test_a_multiplier_of_zero_keeps_the_text_encoders_body_and_moves_its_head() -> None:
    model = small(y_lr_mult=0.0).train()
    before = {name: value.clone() for name, value in model.y_encoder.state_dict().items()}
    objective = VLJEPAObjective(model, learning_rate=0.1, weight_decay=0.1)
    optimizer = torch.optim.AdamW(
        [
            {
                "params": [weight],
                "lr": objective.learning_rate_of(name),
                "weight_decay": objective.weight_decay_of(name),
            }
            for name, weight in objective.named_parameters()
            if weight.requires_grad
        ]
    )
    examples = [Example(one, "", text) for one, text in zip(pictures(3), ("red", "two", "one"), strict=True)]
    objective(**Collator(model)(examples))["loss"].backward()
    optimizer.step()
    for name, value in model.y_encoder.state_dict().items():
        assert torch.equal(value, before[name]) == name.startswith("body."), name


def test_a_batch_holds_queries_only_where_one_is_asked_and_numbers_equal_answers() -> None:
    collate, pixels = Collator(small()), pictures(3)
    captions = collate([Example(one, "", text) for one, text in zip(pixels, ("red", "two", "red"), strict=True)])
    assert "query_ids" not in captions and captions["pixels"].dtype == torch.uint8
    groups = captions["groups"].tolist()
    assert groups[0] == groups[2] != groups[1]
    asked = collate([Example(pixels[0], "", "red"), Example(pixels[1], "how many do you see ?", "two")])
    assert asked["query_mask"].sum(1).tolist() == [0, 6]


def test_what_is_held_out_is_not_learned() -> None:
    data = scene_data(replace(TINY, scenes=400, held_out=60))
    assert data.captions is not None
    learned = set(data.captions.scenes.scenes)  # type: ignore[attr-defined]
    held = (
        Scenes(60, seed=TINY.seed + 1_000_003, size=16),
        Scenes(60, seed=TINY.seed + 2_000_003, objects=(1, 1), size=16),
    )
    assert not any(learned & set(own.scenes) for own in held)


def test_data_sets_take_turns_and_the_shorter_one_comes_round_again() -> None:
    both = Both([["a", "b"], [1, 2, 3]])
    assert [both[index] for index in range(len(both))] == ["a", 1, "b", 2, "a", 3]


@pytest.fixture
def own_pictures(tmp_path: Path) -> Path:
    image = pytest.importorskip("PIL.Image")
    rows = []
    for number, picture in enumerate(pictures(12, size=20)):
        image.fromarray(picture.permute(1, 2, 0).numpy()).save(tmp_path / f"{number}.png")
        rows.append({"image": f"{number}.png", "answer": f"Number {number % 6} ."})
        if number % 2:
            rows[-1]["prompt"] = "Which number ?"
    file = tmp_path / "pairs.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return file


FLAGS = {
    name.replace("_", "-"): getattr(TINY, name)
    for name in (
        *(
            "embed_dim",
            "width",
            "layers",
            "text_width",
            "text_layers",
            "vision_width",
            "vision_layers",
            "heads",
            "size",
        ),
        *("batch_size", "vision_steps", "decoder_steps", "scenes", "log_every", "save_every"),
    )
}


def command(*given: object, **changes: object) -> list[str]:
    flags = FLAGS | {name.replace("_", "-"): value for name, value in changes.items()}
    return [
        "train",
        "vl-jepa",
        *map(str, given),
        *(part for name, value in flags.items() for part in (f"--{name}", str(value))),
    ]


def test_the_command_trains_on_pictures_of_ones_own(
    own_pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "model"
    given = command("--data", own_pictures, "-o", target, "--device", "cpu", steps=2, held_out=3)
    assert main(given) == 0, capsys.readouterr().err
    told = capsys.readouterr().err
    assert "retrieval" in told and "alignment" in told
    assert VLJEPA.from_pretrained(target).classify(torch.randn(1, 12), ["number 1 .", "number 2 ."]).texts is not None
    found = pair_data(own_pictures, replace(TINY, held_out=3))
    assert len(found.captions or ()) + len(found.questions or ()) == 9
    assert "number" in found.words
    half = pair_data(own_pictures, replace(TINY, held_out=3, caption_share=0.5))
    assert len(half.questions or ()) > len(found.questions or ()) and half.digest == found.digest
    lines = own_pictures.read_text().splitlines(keepends=True)
    own_pictures.write_text("".join([lines[1], lines[0], *lines[2:]]))  # as many records, in another order
    assert main(given) == 2
    assert "other settings or data" in " ".join(capsys.readouterr().err.split())


def test_the_command_says_what_is_wrong(own_pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / "bad.jsonl"
    wrong = {
        '{"image": "0.png"}': '"answer" (a text) are wanted',
        '{"image": "none.png", "answer": "x"}': "there is no picture",
    }
    for text, told in wrong.items():
        bad.write_text(text, encoding="utf-8")
        assert main(command("--data", bad, "-o", tmp_path / "out")) == 2
        assert told in " ".join(capsys.readouterr().err.split())
    cases = {
        "must be a multiple of twice heads": command("-o", tmp_path / "out", width=18),
        "must divide size": command("-o", tmp_path / "out", size=20),
        "first:last+1": command("-o", tmp_path / "out", predictor_layers="8-16"),
        "loss": command("-o", tmp_path / "out", loss="huber"),
        "duplicates": command("-o", tmp_path / "out", duplicates="dropped"),
        "of which 12 are held out": command("--data", own_pictures, "-o", tmp_path / "out", held_out=12),
        "there is no file": command("--data", tmp_path / "none.jsonl", "-o", tmp_path / "out"),
    }
    for told, given in cases.items():
        assert main(given) == 2, told
        assert told in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_no_picture_is_said(tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    from szilard.representation.vl_jepa.pairs import read_picture

    (tmp_path / "text.png").write_text("no picture", encoding="utf-8")
    with pytest.raises(ValueError, match="no picture that can be read"):
        read_picture(tmp_path / "text.png", 16)


def test_layers_are_written_as_a_range() -> None:
    assert replace(TINY, predictor_layers="8:16").chosen_layers == slice(8, 16)
    assert replace(TINY, predictor_layers=":4").chosen_layers == slice(0, 4)
    assert replace(TINY, predictor_layers="4:").chosen_layers == slice(4, None)


def test_public_names_are_there() -> None:
    import szilard

    assert szilard.VLJEPA is VLJEPA and szilard.train_vl_jepa is train_vl_jepa and szilard.YDecoder is YDecoder
