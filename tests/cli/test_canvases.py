"""The commands on a model that fills a canvas: output, figures, pages, and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import szilard
from szilard.cli.facts import facts
from szilard.cli.following import drawn, follow
from szilard.cli.main import main
from szilard.diffusion.engine import Canvas
from tests.diffusion.tiny import EOS, MASK, PROMPTS, tiny_engine, tiny_model, tokenizer


@pytest.fixture(scope="module")
def canvas_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The tiny diffusion model on disk."""
    folder = tmp_path_factory.mktemp("tiny-canvas")
    tiny_model(layers=2).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config["masked_diffusion"] = {"mask_token_id": MASK, "eos_token_id": EOS}
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


@pytest.fixture
def cli(capsys: Any, monkeypatch: pytest.MonkeyPatch, canvas_folder: str) -> Any:
    """Run a command on it; returns (exit code, stdout, stderr)."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(command: str, *arguments: object) -> tuple[int, str, str]:
        code = main([command, *map(str, arguments), "-m", canvas_folder])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def test_generate_prints_the_text_once_and_the_rounds_apart(cli: Any) -> None:
    code, out, err = cli("generate", "w10 w11", "--method", "threshold-unmask", "-s", "threshold=0.3", "-n", 8)
    assert code == 0 and out.count("\n") == 1 and "░" not in out and out.startswith("w")
    said = " ".join(err.split())
    for name in ("rounds", "tokens per round", "bits per round", "rounds at least", "computed columns"):
        assert name in said
    assert "latent steps" not in said
    assert cli("generate", "w10 w11", "-n", 8, "--quiet")[2] == ""


def test_a_template_is_filled_where_it_is_open(cli: Any) -> None:
    record = json.loads(cli("generate", "w10", "--template", "w20 [MASK] w21 [MASK]", "-n", 4, "--json")[1])
    assert record["tokens"][0] == 20 and record["tokens"][2:3] in ([21], [])
    code, _, err = cli("generate", "w10", "--template", "w20 w21", "-n", 4)
    assert code == 2 and "leaves nothing to fill" in err


def test_a_template_goes_with_a_file_of_prompts(cli: Any, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("w10\nw11 w12\n")
    files = ("--prompts", tmp_path / "prompts.txt", "-o", tmp_path / "out.jsonl")
    assert cli("generate", *files, "--template", "w20 [MASK] [MASK]", "-n", 3)[0] == 0
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert len(lines) == 2 and all(line["ids"][0] == 20 for line in lines)


def test_pages_of_canvases_can_be_played(cli: Any, tmp_path: Path) -> None:
    for command in ("generate", "trace", "compare"):
        page = tmp_path / f"{command}.html"
        assert cli(command, "w10 w11", "-n", 8, "--html", page)[0] == 0
        assert 'id="play"' in page.read_text() and "bits per round" in page.read_text()


def test_compare_shows_rounds_and_bits(cli: Any) -> None:
    names = "top-k-unmask,schedule-unmask,threshold-unmask+dual-cache"
    code, out, _ = cli("compare", "w10 w11", "--methods", names, "-s", "schedule-unmask.steps=4", "-n", 8)
    assert code == 0 and all(name in out for name in names.split(","))
    assert "rounds at least" in out and "latent steps" not in out
    rows = json.loads(cli("compare", "w10", "-n", 6, "--json")[1])
    assert [result["method"] for result in rows[0]] == ["top-k-unmask", "threshold-unmask"]
    assert rows[0][0]["facts"]["rounds"] == 6


def test_a_trace_of_a_canvas_is_kept_shown_and_drawn_again(cli: Any, tmp_path: Path) -> None:
    kept, page = tmp_path / "t.json", tmp_path / "t.html"
    assert cli("trace", "w10", "-n", 6, "-o", kept)[0] == 0
    code, out, _ = cli("trace", kept, "--table", "--html", page)
    assert code == 0 and "round" in out and "probability" in out
    assert 'id="play"' in page.read_text()


def test_info_says_that_canvas_methods_run_and_others_do_not(cli: Any) -> None:
    known = json.loads(cli("info", "--json")[1])
    assert known["engine"] == "diffusion" and {"threshold-unmask", "dual-cache"} <= set(known["runs"])
    assert "greedy" in known["cannot run"] and "snapkv" in known["cannot run"]
    assert "denoising" in cli("info")[1]


def test_every_canvas_method_is_described(capsys: Any) -> None:
    for slug in (slug for slug, entry in szilard.methods().items() if "denoising" in entry.needs):
        assert main(["methods", slug]) == 0 and slug in capsys.readouterr().out
        assert main(["methods", slug, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["slug"] == slug


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["generate", "w10", "--method", "lead"], "needs"),
        (["compare", "w10", "--methods", "greedy"], "needs logits"),
        (["trace", "w10", "--method", "greedy"], "needs logits"),
        (["generate", "w10", "--method", "threshold-unmask", "-s", "threshold=high"], "threshold must be"),
    ],
)
def test_what_does_not_fit_a_canvas_is_one_sentence(cli: Any, arguments: list[str], words: str) -> None:
    code, out, err = cli(*arguments)
    assert code == 2 and out == "" and words in err and err.count("\n") == 1


def test_a_template_needs_a_model_that_fills_canvases(capsys: Any, model_folder: str) -> None:
    assert main(["generate", "w10", "--template", "w10 [MASK]", "-m", model_folder]) == 2
    assert "cannot fill a template" in capsys.readouterr().err


def test_a_conversation_goes_on_over_canvases(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = iter(["w10", "/method threshold-unmask threshold=0.3", "w11", "/heat", "/quit"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(lines))
    code, out, _ = cli("chat", "-n", 6)
    assert code == 0 and "░" not in out


# ---- figures ---------------------------------------------------------------------------------------------------------


def test_facts_of_a_canvas_fit_together() -> None:
    engine = tiny_engine(eos=None)
    result = engine.generate(PROMPTS[0], szilard.ThresholdUnmask(threshold=0.3), max_new_tokens=12)
    known = facts(result)
    assert known["rounds"] == result.cost.total_forward_passes == result.trace["round"].max()
    assert known["tokens per round"] == round(12 / known["rounds"], 2)
    assert 1 <= known["rounds at least"] <= known["rounds"]
    assert known["computed columns"] == known["rounds"] * (5 + 12)


def test_tokens_of_a_template_count_as_given() -> None:
    engine = tiny_engine(eos=None)
    result = engine.generate(PROMPTS[0], szilard.TopKUnmask(), template="w7 w8 [MASK] w9 [MASK]")
    known = facts(result)
    assert known["tokens"] == 5 and known["rounds"] == 2 and known["tokens per round"] == 1.0
    committed = result.trace["entropy"][result.trace["round"] > 0]
    assert known["mean entropy"] == pytest.approx(committed.mean(), abs=1e-3)


def test_facts_without_a_trace_know_the_rounds_alone() -> None:
    engine = tiny_engine(eos=None)
    known = facts(engine.generate(PROMPTS[0], szilard.TopKUnmask(), max_new_tokens=4, trace=False))
    assert known["rounds"] == 4 and known["bits per round"] is None and known["rounds at least"] is None


# ---- a canvas on a terminal ------------------------------------------------------------------------------------------


def test_a_canvas_is_redrawn_on_a_terminal_and_its_text_written_once(capsys: Any, monkeypatch: Any) -> None:
    engine = tiny_engine(eos=None)
    options = {"max_new_tokens": 6}
    plain = follow(engine.stream(PROMPTS[0], szilard.TopKUnmask(), **options))
    assert capsys.readouterr().out == plain.text + "\n"
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    again = follow(engine.stream(PROMPTS[0], szilard.TopKUnmask(), **options))
    out = capsys.readouterr().out
    assert again.tokens == plain.tokens and "░" in out and "round 1, 1 token committed" in out
    assert out.endswith(plain.text + "\n")


def test_nothing_in_a_canvas_acts_on_the_terminal() -> None:
    text = drawn(Canvas(3, [1, MASK], [0], "[red]\x1b[2J\u202e░")).plain
    assert text.startswith("[red]⟨U+001B⟩[2J⟨U+202E⟩░") and text.endswith("round 3, 1 token committed")
