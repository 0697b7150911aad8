"""From problems in a file to a page of latent chains, at a terminal."""

import json

from szilard.cli.main import main
from tests.reasoning.latent_sft import tiny


def test_a_file_of_problems_becomes_a_model_whose_chains_can_be_looked_at(tmp_path, capsys):
    tiny.arithmetic_model().save_pretrained(tmp_path / "base")
    tiny.tokenizer().save_pretrained(tmp_path / "base")
    data = tmp_path / "data.jsonl"
    asked = tiny.problems(12)
    rows = [{"question": one.problem, "answer": f"{one.cot}\n#### {one.answer}"} for one in asked]  # GSM8K's form
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    base = ["--model", str(tmp_path / "base"), "--device", "cpu"]
    out = str(tmp_path / "out")
    settings = "--steps 2 --stage-1-steps 2 --save-every 2 --log-every 1 --gradient-accumulation 1 --batch-size 4"
    settings += " --rank 2 --top-k 3 --evaluations 1 --max-latent-steps 4 --max-answer-tokens 2"
    train = ["train", "latent-sft", *base, "--data", str(data), "-o", out, *settings.split()]
    assert main(train) == 0
    assert "latent_steps" in capsys.readouterr().err
    page = tmp_path / "page.html"
    look = ["trace", "--model", out, "--method", "latent-sft", "--set", "max_latent_steps=3", "--html", str(page)]
    assert main([*look, "--max-new-tokens", "8", asked[0].problem]) == 0
    read = page.read_text(encoding="utf-8")
    assert read.count('class="mix"') in (1, 2, 3) and "show mixtures" in read
    assert main([*train, "--compression-rate", "4"]) == 2
    assert "other settings or data" in capsys.readouterr().err
    (tmp_path / "bad.jsonl").write_text('{"question": "1 + 1 ="}\n')
    assert main(["train", "latent-sft", *base, "--data", str(tmp_path / "bad.jsonl"), "-o", out]) == 2
    assert "has no cot" in capsys.readouterr().err
