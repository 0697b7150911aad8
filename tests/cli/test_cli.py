"""The command line on a tiny model: output, exit codes, files."""

from __future__ import annotations

import errno
import json

import pytest

import szilard
from szilard.cli.main import main


@pytest.fixture
def cli(capsys, monkeypatch, model_folder):
    """Run a command in this process; returns (exit code, stdout, stderr)."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments):
        code = main([str(argument).replace("MODEL", model_folder) for argument in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def test_version(cli):
    assert cli("--version") == (0, f"szilard {szilard.__version__}\n", "")


def test_methods_are_listed_and_described(cli):
    code, out, _ = cli("methods")
    assert code == 0 and all(slug in out for slug in szilard.methods())
    code, out, _ = cli("methods", "lead")
    assert code == 0 and "anchor_strength" in out and "0.4" in out
    rows = json.loads(cli("methods", "--json")[1])
    assert {row["slug"] for row in rows} == set(szilard.methods())
    assert json.loads(cli("methods", "lead", "--json")[1])["slug"] == "lead"


def test_info_says_what_a_model_can_run(cli):
    facts = json.loads(cli("info", "MODEL", "--json")[1])
    assert facts["vocabulary"] == 97 and "lead" in facts["runs"]
    assert "vocabulary" in cli("info", "-m", "MODEL")[1]


def test_generate_prints_the_text_and_its_cost_apart(cli):
    code, out, err = cli("generate", "w10 w11", "-m", "MODEL", "--method", "lead", "-s", "window=2", "-n", "6")
    assert code == 0 and out.strip().startswith("w")
    assert "forward passes 6" in err.replace("\n", " ")
    assert cli("generate", "w10 w11", "-m", "MODEL", "-n", "6", "--quiet")[2] == ""


def test_generate_as_json_carries_trace_and_cost(cli):
    code, out, _ = cli("generate", "w10 w11", "-m", "MODEL", "--method", "lead", "-n", "6", "--json")
    record = json.loads(out)
    assert code == 0 and record["cost"]["forward_passes"] == {"LlamaForCausalLM": 6}
    assert record["method"] == "lead" and record["trace"] and len(record["tokens"]) == 6


def test_a_prompt_comes_from_standard_input(cli, monkeypatch):
    import io

    monkeypatch.setattr("sys.stdin", io.StringIO("w10 w11"))
    assert cli("generate", "-m", "MODEL", "-n", "4")[0] == 0


def test_compare_shows_every_method_and_writes_a_page(cli, tmp_path):
    page = tmp_path / "out.html"
    methods = "greedy,sampling,soft-thinking,lead"
    code, out, _ = cli(
        "compare", "w10 w11", "w12", "-m", "MODEL", "--methods", methods, "-s", "lead.window=3", "-n", 8, "--html", page
    )
    assert code == 0 and all(slug in out for slug in methods.split(","))
    html = page.read_text()
    assert html.count("lead(window=3)") >= 2 and "http://" not in html and "https://" not in html
    rows = json.loads(cli("compare", "w10", "-m", "MODEL", "-n", 4, "--json")[1])
    assert [result["method"] for result in rows[0]] == ["greedy", "lead"]


def test_a_trace_is_saved_and_shown_again(cli, tmp_path):
    for suffix in ("json", "parquet"):
        path = tmp_path / f"t.{suffix}"
        assert cli("trace", "w10", "-m", "MODEL", "-n", 5, "-o", path)[0] == 0
        assert len(szilard.Trace.load(path)) == 5
        code, out, _ = cli("trace", path, "--table")
        assert code == 0 and "entropy" in out
    assert len(json.loads(cli("trace", tmp_path / "t.json", "--json")[1])) > 0


def test_doctor_finds_the_core(cli):
    checks = json.loads(cli("doctor", "--json")[1])
    assert {"torch", "transformers", "cache"} <= {check["what"] for check in checks}
    assert cli("doctor")[0] == 0


def test_chat_talks_switches_methods_and_survives_mistakes(cli, monkeypatch):
    lines = iter(
        ["w10 w11", "/method lead window=2", "w12", "/heat", "/method leed", "/nonsense", "/reset", "w13", "/quit"]
    )
    monkeypatch.setattr("builtins.input", lambda prompt: next(lines))
    code, out, err = cli("chat", "-m", "MODEL", "-n", 4)
    assert code == 0 and "now lead(window=2)" in out
    assert "did you mean 'lead'" in err


BAD = [
    (["generate", "w10", "--method", "leed"], "did you mean 'lead'"),
    (["generate", "w10", "--method", "lead", "-s", "windw=3"], "did you mean 'window'"),
    (["generate", "w10", "--method", "lead", "-s", "window"], "name=value"),
    (["generate", "w10", "--method", "lead", "-s", "window=wide"], "window must be a whole number or a number"),
    (["generate", "w10", "--method", "lead", "-s", "anchor_strength=7"], "between 0 and 1"),
    (["generate", ""], "prompt is empty"),
    (["generate", "w10", "--temperature", "0.5"], "only acts with --sample"),
    (["generate", "w10", "--sample", "--temperature", "0"], "above 0"),
    (["generate", "w10", "--html", "/no/such/folder/x.html"], "does not exist"),
    (["generate", "w10", "--image", "/no/such.png"], "text model|no image file"),
    (["generate", "w10", "-n", "0"], "max_new_tokens"),
    (["compare", "w10", "--methods", "greedy,leed"], "did you mean 'lead'"),
    (["compare", "w10", "--methods", ","], "--methods is empty"),
    (["compare", "w10", "-s", "window=3"], "METHOD.NAME=VALUE"),
    (["trace", "w10", "-o", "x.csv"], "must end in .json or .parquet"),
    (["generate", "w10", "--method", "lead", "-s", 'anchor=[1, "a"]'], "token ids"),
    (["generate", "w10", "--method", "lead", "-s", "anchor=[1,"], "list of token ids"),
    (["generate", "w10", "--method", "sampling", "--sample", "--temperature", "0.5"], "settings of its own"),
    (["generate", "w10", "--seed", "99999999999999999999"], "seed must be"),
    (["methods", "leed"], "did you mean 'lead'"),
]


@pytest.mark.parametrize(("arguments", "words"), BAD, ids=[" ".join(arguments) for arguments, _ in BAD])
def test_bad_input_is_one_sentence_and_exit_code_2(cli, arguments, words):
    import re

    if arguments[0] != "methods":
        arguments = [*arguments, "-m", "MODEL"]
    code, out, err = cli(*arguments)
    assert code == 2 and out == ""
    assert re.search(words, err) and err.count("\n") == 1 and "Traceback" not in err


def test_an_unknown_command_or_flag_is_exit_code_2(cli):
    assert cli("generat", "w10")[0] == 2
    assert cli("generate", "w10", "--metod", "lead")[0] == 2


def test_our_own_fault_is_exit_code_1_without_a_stack_trace(cli, monkeypatch):
    def broken(*arguments, **options):
        raise RuntimeError("wires crossed")

    monkeypatch.setattr("szilard.engines.load", broken)
    code, _, err = cli("generate", "w10", "-m", "MODEL")
    assert code == 1 and "wires crossed" in err and "Traceback" not in err


def test_a_page_that_cannot_be_finished_leaves_no_file(tmp_path, monkeypatch):
    from szilard.cli.options import write_text

    target = tmp_path / "page.html"
    target.write_text("old")
    with pytest.raises(UnicodeEncodeError):
        write_text(target, "new \ud800")
    assert target.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["page.html"]


def test_a_link_is_followed_and_a_device_is_written_to(tmp_path):
    from pathlib import Path

    from szilard.cli.options import write_text

    real, link = tmp_path / "real.html", tmp_path / "link.html"
    real.write_text("old")
    link.symlink_to(real)
    write_text(link, "new")
    assert link.is_symlink() and real.read_text() == "new"
    write_text(Path("/dev/null"), "gone")
    assert not Path("/dev/null").is_file()


def test_what_looks_like_markup_is_printed_as_it_is(cli):
    code, out, _ = cli("compare", "[/red] w10 [bold]", "-m", "MODEL", "-n", 3)
    assert code == 0 and "[/red] w10 [bold]" in out


def test_ids_can_be_set_on_the_command_line(cli):
    record = json.loads(
        cli("generate", "w10", "-m", "MODEL", "--method", "lead", "-s", "anchor=[5, 6]", "-n", 4, "--json")[1]
    )
    assert record["options"]["anchor"] == [5, 6]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        PermissionError(errno.EACCES, "Permission denied", "a file"),
        RuntimeError("basic_ios::clear: iostream error"),
        RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_or_closed_disk_is_no_fault_of_ours(error, capsys, monkeypatch):
    from szilard.cli import main as commands

    def broken(*_, **__):
        raise error

    monkeypatch.setattr(commands, "app", broken)
    monkeypatch.delenv("SZILARD_DEBUG", raising=False)
    assert commands.main([]) == 2
    assert "give the command again" in capsys.readouterr().err


def test_doctor_and_errors_name_the_folder_that_szilard_came_from(cli, monkeypatch, tmp_path):
    from szilard.cli import installing

    (tmp_path / "pyproject.toml").touch()
    monkeypatch.setattr(installing, "_source", lambda: tmp_path)
    monkeypatch.setattr(installing, "_is_there", lambda package: package != "peft")
    checks = {check["what"]: check for check in json.loads(cli("doctor", "--json")[1])}
    assert checks["extra train"]["found"] == "missing: peft"
    assert checks["extra train"]["mend"] == f"pip install -e '{tmp_path}[train]'"
    assert f"{tmp_path}[train]" in cli("doctor")[1]
    assert (
        installing.as_installed("x needs y: pip install 'szilard[eval]'.")
        == f"x needs y: pip install -e '{tmp_path}[eval]'."
    )
    monkeypatch.setattr(installing, "_source", lambda: None)
    assert installing.as_installed("pip install 'szilard[eval]'") == "pip install 'szilard[eval]'"
