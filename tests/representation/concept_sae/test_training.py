"""Autoencoders train through the one loop, from memory or from disk, and go on where they were stopped."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from szilard.cli.main import main
from szilard.representation.concept_sae.coder import SparseCoder
from szilard.representation.concept_sae.harvest import harvest_activations
from szilard.representation.concept_sae.kinds import load_sae, make_sae
from szilard.representation.concept_sae.training import Rows, SaeConfig, SaeObjective, train_sae
from tests.conftest import VOCAB

TINY = SaeConfig(steps=12, batch_size=32, save_every=4, log_every=2, learning_rate=3e-3, held_out=0.1, anneal_start=0.3)


def planted(count: int = 2000) -> torch.Tensor:
    """[count, 16]: sparse sums of 24 directions, off the origin."""
    chance = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(24, 16, generator=chance), dim=1)
    active = torch.rand(count, 24, generator=chance) < 0.08
    return (active * (1 + torch.rand(count, 24, generator=chance))) @ directions * 3 + 1.0


def sae_of(kind: str, width: int = 16, size: int = 48) -> SparseCoder:
    torch.manual_seed(0)
    return make_sae(kind, width, size, **({"k": 3} if "top-k" in kind else {}))


@pytest.mark.parametrize("kind", ["batch-top-k", "structured"])
def test_a_killed_run_goes_on_to_the_same_losses_and_weights(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = planted(400)
    whole = train_sae(sae_of(kind), x, tmp_path / "whole", TINY, device="cpu")

    class Killed(Exception):
        pass

    count, forward = 0, SaeObjective.forward

    def dying(self: SaeObjective, x: torch.Tensor) -> dict[str, torch.Tensor]:
        nonlocal count
        count += 1
        if count == 10:
            raise Killed
        return forward(self, x)

    with monkeypatch.context() as patched:
        patched.setattr(SaeObjective, "forward", dying)
        with pytest.raises(Killed):
            train_sae(sae_of(kind), x, tmp_path / "parts", TINY, device="cpu")
    again = train_sae(sae_of(kind), x, tmp_path / "parts", TINY, device="cpu")
    assert [row["loss"] for row in again.metrics] == [row["loss"] for row in whole.metrics]
    assert again.evaluations == whole.evaluations
    one, other = (load_sae(tmp_path / name).state_dict() for name in ("whole", "parts"))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_training_finds_planted_directions_and_columns_stay_of_norm_one(tmp_path: Path) -> None:
    sae, x = sae_of("top-k"), planted()
    found = train_sae(
        sae, x, tmp_path, replace(TINY, steps=200, batch_size=128, save_every=100, learning_rate=1e-2), device="cpu"
    )
    first, last = found.evaluations[0], found.evaluations[-1]
    assert last["explained_variance"] > 0.8 > first["explained_variance"] and last["l0"] <= 3
    torch.testing.assert_close(sae.dictionary.norm(dim=0), torch.ones(48))
    assert "explained_variance" in (tmp_path / "README.md").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))["kind"] == "top-k"


def test_the_structured_one_without_its_head_trains_as_p_annealing(tmp_path: Path) -> None:
    x = planted(400)
    torch.manual_seed(0)
    off = make_sae("structured", 16, 48, rank_head="none", rank_weight=0.0)
    one = train_sae(off, x, tmp_path / "off", TINY, device="cpu")
    other = train_sae(sae_of("p-annealing"), x, tmp_path / "plain", TINY, device="cpu")
    assert [row["loss"] for row in one.metrics] == [row["loss"] for row in other.metrics]
    assert one.metrics[-1]["p"] < 1.0


def test_activations_on_disk_train_as_those_in_memory_and_a_batch_is_one_read(llama: Any, tmp_path: Path) -> None:
    chance = torch.Generator().manual_seed(0)
    texts = [torch.randint(3, VOCAB, (10,), generator=chance).tolist() for _ in range(40)]
    store = harvest_activations(llama, texts, tmp_path / "store", numbers="float32", batch_size=2, shard_rows=100)
    disk = train_sae(sae_of("l1", 32), store, tmp_path / "disk", TINY, device="cpu")
    sae = sae_of("l1", 32)
    sae.initialise(store.mean, store.scale)
    memory = train_sae(sae, store[:], tmp_path / "memory", TINY, device="cpu")
    assert [row["loss"] for row in disk.metrics] == [row["loss"] for row in memory.metrics]
    batch = Rows.collate(Rows(store, len(store)).__getitems__([399, 0, 7]))["x"]
    assert torch.equal(batch, store[:][[399, 0, 7]])


def test_inputs_are_scaled_to_the_root_of_their_width_and_the_bias_begins_at_their_mean(tmp_path: Path) -> None:
    sae, x = sae_of("l1"), planted(300)
    train_sae(sae, x, tmp_path, replace(TINY, steps=1, learning_rate=0.0), device="cpu")
    assert float((x * sae.input_scale).norm(dim=1).mean()) == pytest.approx(4.0, rel=1e-5)
    torch.testing.assert_close(sae.decoder_bias, x.mean(0) * sae.input_scale, rtol=1e-4, atol=1e-4)


def test_bad_input_is_refused(tmp_path: Path) -> None:
    x = planted(100)
    with pytest.raises(ValueError, match="width 16, not 8"):
        train_sae(sae_of("l1"), x[:, :8], tmp_path)
    with pytest.raises(ValueError, match="must be finite"):
        train_sae(sae_of("l1"), x.log(), tmp_path)
    with pytest.raises(ValueError, match="all zero"):
        train_sae(sae_of("l1"), x * 0, tmp_path)
    with pytest.raises(TypeError, match="ActivationStore or a tensor"):
        train_sae(sae_of("l1"), x.tolist(), tmp_path)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="too few"):
        train_sae(sae_of("l1"), x[:1], tmp_path)
    for device in ("cpus", "meta"):
        with pytest.raises(ValueError, match="there is no device"):
            train_sae(sae_of("l1"), x, tmp_path, device=device)
    with pytest.raises(TypeError, match="device must be"):
        train_sae(sae_of("l1"), x, tmp_path, device=3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="anneal_start"):
        SaeConfig(anneal_start=1.0)
    train_sae(sae_of("l1"), x, tmp_path / "one", replace(TINY, steps=2), device="cpu")
    with pytest.raises(ValueError, match="other autoencoder or activations"):
        train_sae(sae_of("top-k"), x, tmp_path / "one", replace(TINY, steps=2), device="cpu")
    with pytest.raises(ValueError, match="other settings"):
        train_sae(sae_of("l1"), x, tmp_path / "one", replace(TINY, steps=3), device="cpu")


def test_the_command_trains_from_a_folder_of_activations(llama: Any, tmp_path: Path, capsys: Any) -> None:
    chance = torch.Generator().manual_seed(0)
    texts = [torch.randint(3, VOCAB, (10,), generator=chance).tolist() for _ in range(40)]
    harvest_activations(llama, texts, tmp_path / "store")
    command = ["train", "sae", "--activations", str(tmp_path / "store"), "-o", str(tmp_path / "sae"), "--steps", "4"]
    command += ["--batch-size", "32", "--device", "cpu", "--dictionary-size", "40", "--json"]
    assert main([*command, "--kind", "structured", "--rank-head", "factorised"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["rows"] == 400 and 0 <= told["dead"] <= 1 and "rank" in told
    assert load_sae(tmp_path / "sae").dictionary_size == 40
    assert main([*command, "--kind", "dense"]) == 2
    assert main(["train", "sae", "-o", str(tmp_path / "no")]) == 2
    assert main([*command, "--kind", "l1", "--k", "3"]) == 2
    capsys.readouterr()
    assert main([*command, "--layer", "0", "--rows", "5", "--model", "none"]) == 2
    assert "--model, --layer, --rows would be ignored" in " ".join(capsys.readouterr().err.split())


_KILLED = """
import os, signal, sys, torch
from pathlib import Path
from transformers import LlamaConfig, LlamaModel
from szilard.representation.concept_sae.harvest import harvest_activations
torch.manual_seed(0)
torch.set_num_threads(1)
model = LlamaModel(LlamaConfig(vocab_size=50, hidden_size=16, intermediate_size=16, num_hidden_layers=2,
    num_attention_heads=2, num_key_value_heads=2))
folder, kill = Path(sys.argv[1]), sys.argv[2] == "kill"
def progress(done):
    if kill and done > 300:
        os.kill(os.getpid(), signal.SIGKILL)
texts = [[at % 50] * 10 for at in range(80)]
harvest_activations(model, texts, folder, layer=1, batch_size=2, shard_rows=80, progress=progress)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system cannot kill so")
def test_a_harvest_that_was_killed_for_good_goes_on_to_the_same_files(tmp_path: Path) -> None:
    def run(folder: str, how: str) -> int:
        return subprocess.run([sys.executable, "-c", _KILLED, str(tmp_path / folder), how], check=False).returncode

    assert run("whole", "live") == 0 and run("parts", "kill") == -signal.SIGKILL and run("parts", "live") == 0
    files = {path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()}
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "parts").iterdir()} and len(files) > 4


def test_a_folder_that_another_training_holds_is_told(tmp_path: Path) -> None:
    from filelock import FileLock

    with FileLock(tmp_path / ".lock"), pytest.raises(ValueError, match="another process is writing"):
        train_sae(sae_of("l1"), planted(100), tmp_path, replace(TINY, steps=2), device="cpu")
