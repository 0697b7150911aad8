"""Activations come to disk as the model gives them, survive a kill, and memory stays flat."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from szilard.representation.concept_sae.harvest import harvest_activations
from szilard.representation.concept_sae.store import ActivationStore
from tests.conftest import VOCAB, tiny_tokenizer


def texts(count: int = 40, seed: int = 0) -> list[list[int]]:
    chance = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 9, (count,), generator=chance).tolist()
    return [torch.randint(3, VOCAB, (length,), generator=chance).tolist() for length in lengths]


@pytest.mark.parametrize("layer", [0, 1, -1])
def test_rows_are_the_hidden_states_of_the_texts_in_their_order(model: Any, layer: int, tmp_path: Path) -> None:
    given = texts(20)
    store = harvest_activations(model, given, tmp_path, layer=layer, numbers="float32", batch_size=3, shard_rows=10)
    with torch.no_grad():
        known = torch.cat(
            [model(torch.tensor([ids]), output_hidden_states=True).hidden_states[layer][0] for ids in given]
        ).float()
    assert len(store) == sum(map(len, given)) and store.input_dim == 32 and len(store.shards) > 1
    torch.testing.assert_close(store[:], known, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(store.mean, known.mean(0), rtol=1e-4, atol=1e-4)
    assert store.scale == pytest.approx(32**0.5 / float(known.norm(dim=1).mean()), rel=1e-5)


def test_rows_are_read_in_any_order(llama: Any, tmp_path: Path) -> None:
    store = harvest_activations(llama, texts(), tmp_path, batch_size=2, shard_rows=20)
    everything = store[:]
    order = torch.randperm(len(store), generator=torch.Generator().manual_seed(1))
    assert torch.equal(store[order], everything[order]) and torch.equal(store[-1], everything[-1])
    assert torch.equal(store[[3, 3, 0]], everything[[3, 3, 0]]) and store[[]].shape == (0, 32)
    with pytest.raises(IndexError, match="rows must be below"):
        store[len(store)]


def test_a_killed_harvest_goes_on_to_the_same_files(llama: Any, tmp_path: Path) -> None:
    given, options = texts(60), {"batch_size": 2, "shard_rows": 30}
    whole = harvest_activations(llama, given, tmp_path / "whole", **options)

    class Killed(Exception):
        pass

    def dying(done: int) -> None:
        if done > 120:
            raise Killed

    with pytest.raises(Killed):
        harvest_activations(llama, given, tmp_path / "parts", progress=dying, **options)
    (tmp_path / "parts" / "shard-00099.npy").write_bytes(b"half")  # one that was never named
    known = (tmp_path / "parts" / "shard-00000.npy").stat().st_mtime_ns
    parts = harvest_activations(llama, given, tmp_path / "parts", **options)
    assert torch.equal(whole[:], parts[:]) and torch.equal(whole.mean, parts.mean) and whole.scale == parts.scale
    assert (tmp_path / "parts" / "shard-00000.npy").stat().st_mtime_ns == known
    assert (tmp_path / "parts" / "shards.json").read_bytes() == (tmp_path / "whole" / "shards.json").read_bytes()


def test_more_texts_are_added_and_others_are_refused(llama: Any, tmp_path: Path) -> None:
    given = texts(20)
    first = len(harvest_activations(llama, given[:12], tmp_path))
    store = harvest_activations(llama, given, tmp_path)
    assert first == sum(map(len, given[:12])) and len(store) == sum(map(len, given))
    with pytest.raises(ValueError, match="other texts"):
        harvest_activations(llama, texts(20, seed=1), tmp_path)
    with pytest.raises(ValueError, match="another layer"):
        harvest_activations(llama, given, tmp_path, layer=1)


def test_rows_stop_and_first_tokens_are_left_out(llama: Any, tmp_path: Path) -> None:
    given = texts(30)
    assert len(harvest_activations(llama, given, tmp_path / "some", max_rows=50)) == 50
    rest = harvest_activations(llama, given, tmp_path / "rest", skip_first=1, numbers="float32")
    every = harvest_activations(llama, given, tmp_path / "every", numbers="float32")
    inner = torch.cat([torch.arange(len(ids)) > 0 for ids in given])
    torch.testing.assert_close(rest[:], every[inner.numpy()], rtol=1e-4, atol=1e-4)


def test_strings_go_through_the_tokenizer_of_an_engine(engine: Any, tmp_path: Path) -> None:
    store = harvest_activations(engine, ["w9 w10 w11", "w12"], tmp_path / "engine")
    plain = harvest_activations(engine.model, ["w9 w10 w11", "w12"], tmp_path / "model", tokenizer=tiny_tokenizer())
    assert len(store) == 4 and torch.equal(store[:], plain[:])
    assert json.loads((tmp_path / "engine" / "header.json").read_text())["layer"] == 3


def test_memory_does_not_grow_with_the_texts(tmp_path: Path) -> None:
    script = f"""
import resource, torch
from transformers import AutoModel, LlamaConfig
from szilard.representation.concept_sae.harvest import harvest_activations
torch.manual_seed(0)
model = AutoModel.from_config(LlamaConfig(vocab_size=50, hidden_size=256, intermediate_size=64, num_hidden_layers=1,
    num_attention_heads=2, num_key_value_heads=2))
def peak(rows, name):
    texts = ([at % 50] * 64 for at in range(rows // 64))
    harvest_activations(model, texts, {str(tmp_path)!r} + name, numbers="float32", shard_rows=4096)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
few = peak(16384, "/few")
print(peak(131072, "/many") - few)
"""
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(told.stdout) < 32 * 1024, told.stdout  # KiB; the activations alone are 128 MiB


def test_bad_input_is_refused_before_any_work(llama: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="layer must be between -4 and 3"):
        harvest_activations(llama, texts(), tmp_path, layer=4)
    with pytest.raises(TypeError, match="several strings"):
        harvest_activations(llama, "one", tmp_path)
    with pytest.raises(TypeError, match="need a model of transformers"):
        harvest_activations(object(), texts(), tmp_path)
    with pytest.raises(ValueError, match="numbers must be one of"):
        harvest_activations(llama, texts(), tmp_path, numbers="int8")
    with pytest.raises(ValueError, match="need a tokenizer"):
        harvest_activations(llama, ["w9"], tmp_path / "a")
    with pytest.raises(ValueError, match="token ids must be between"):
        harvest_activations(llama, [[VOCAB]], tmp_path / "b")
    with pytest.raises(ValueError, match="no activations"):
        harvest_activations(llama, [[]], tmp_path / "c")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds other files"):
        harvest_activations(llama, texts(), tmp_path / "d")
    with pytest.raises(ValueError, match="holds no activations"):
        ActivationStore(tmp_path / "nowhere")


def test_a_shard_that_was_cut_off_is_told(llama: Any, tmp_path: Path) -> None:
    harvest_activations(llama, texts(), tmp_path)
    shard = tmp_path / "shard-00000.npy"
    shard.write_bytes(shard.read_bytes()[:-10])
    with pytest.raises(ValueError, match="missing or cut off"):
        ActivationStore(tmp_path)


def test_activations_beyond_float16_are_told(tmp_path: Path, llama: Any) -> None:
    table = llama.get_input_embeddings().weight
    kept = table.detach().clone()
    try:
        table.data.mul_(1e9)
        with pytest.raises(ValueError, match="beyond 65504: store float32"):
            harvest_activations(llama, texts(), tmp_path, layer=0)
    finally:
        table.data.copy_(kept)


def test_a_model_of_pictures_and_indices_that_are_none_are_told(tmp_path: Path, llama: Any) -> None:
    from transformers import ViTConfig, ViTModel

    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    vision = ViTModel(ViTConfig(**small, image_size=8, patch_size=8))
    with pytest.raises(ValueError, match="does not read token ids"):
        harvest_activations(vision, texts(), tmp_path / "a")
    with pytest.raises(TypeError, match="token ids"):
        harvest_activations(llama, [[1.5]], tmp_path / "b")
    store = harvest_activations(llama, texts(), tmp_path / "c")
    with pytest.raises(TypeError, match="whole number"):
        store[[1.5]]
    with pytest.raises(IndexError, match="truth values"):
        store[[True, False]]
    (tmp_path / "c" / "shards.json").write_text("[1]")
    with pytest.raises(ValueError, match="no activations"):
        ActivationStore(tmp_path / "c")


def test_a_middle_layer_ends_the_forward_and_others_are_not_kept(model: Any) -> None:
    from szilard.representation.concept_sae.layers import LayerReader

    ids, mask = torch.tensor([[5, 6, 7], [8, 9, 0]]), torch.tensor([[1, 1, 1], [1, 1, 0]])
    with torch.no_grad():
        known = model(ids, attention_mask=mask, output_hidden_states=True).hidden_states
    for layer in range(-4, 4):
        reader = LayerReader(model, layer)
        assert reader.stop is not None and torch.equal(reader(ids, mask), known[layer])
    ran: list[int] = []
    stack = next(part for part in model.base_model.modules() if isinstance(part, torch.nn.ModuleList))
    handles = [part.register_forward_pre_hook(lambda *_, at=at: ran.append(at)) for at, part in enumerate(stack)]
    try:
        reader = LayerReader(model, 1)
        ran.clear()
        reader(ids, mask)
    finally:
        for handle in handles:
            handle.remove()
    assert ran == [0, 1]  # the second takes the states in, and does not run


def test_a_model_of_another_build_gives_its_states_too() -> None:
    from transformers import AlbertConfig, AlbertModel

    from szilard.representation.concept_sae.layers import LayerReader

    small = {"hidden_size": 8, "embedding_size": 8, "num_hidden_layers": 3, "num_attention_heads": 1}
    albert = AlbertModel(AlbertConfig(**small, intermediate_size=8, vocab_size=20)).eval()  # one layer, three times
    ids = torch.tensor([[3, 4, 5]])
    with torch.no_grad():
        known = albert(ids, output_hidden_states=True).hidden_states[1]
    torch.testing.assert_close(LayerReader(albert, 1)(ids, torch.ones_like(ids)), known)


def test_texts_are_cut_where_the_positions_of_a_model_end(tmp_path: Path) -> None:
    from transformers import RobertaConfig, RobertaModel

    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    roberta = RobertaModel(RobertaConfig(**small, vocab_size=40, max_position_embeddings=20, pad_token_id=1))
    assert len(harvest_activations(roberta, [list(range(3, 40))], tmp_path)) == 18  # two places are the padding's


def test_a_model_of_pictures_and_texts_is_told(tmp_path: Path) -> None:
    from transformers import CLIPConfig, CLIPModel

    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    text = small | {"vocab_size": 20, "bos_token_id": 0, "eos_token_id": 1}
    clip = CLIPModel(CLIPConfig(text_config=text, vision_config=small | {"image_size": 8, "patch_size": 8}))
    with pytest.raises(ValueError, match="does not run on token ids alone"):
        harvest_activations(clip, [[3, 4]], tmp_path)
    assert len(harvest_activations(clip.text_model, [[3, 4]], tmp_path)) == 2


def test_a_header_that_is_none_is_told(llama: Any, tmp_path: Path) -> None:
    harvest_activations(llama, texts(), tmp_path)
    header = json.loads((tmp_path / "header.json").read_text())
    for odd in ("[1]", "{", json.dumps(header | {"input_dim": None}), json.dumps(header | {"format": "other"})):
        (tmp_path / "header.json").write_text(odd)
        with pytest.raises(ValueError, match="holds no activations"):
            ActivationStore(tmp_path)
    with pytest.raises(TypeError, match="named by a string or a path"):
        ActivationStore(3)  # type: ignore[arg-type]


def test_a_folder_that_another_process_writes_is_told(llama: Any, tmp_path: Path) -> None:
    from filelock import FileLock

    with FileLock(tmp_path / "lock"), pytest.raises(ValueError, match="another process is writing"):
        harvest_activations(llama, texts(), tmp_path)


def test_a_store_is_read_from_several_places_at_once(llama: Any, tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    harvest_activations(llama, texts(), tmp_path, batch_size=2, shard_rows=20)
    one, other = ActivationStore(tmp_path), ActivationStore(tmp_path)
    known = one[:]
    with ThreadPoolExecutor(4) as pool:
        orders = [torch.randperm(len(one), generator=torch.Generator().manual_seed(at)) for at in range(16)]
        found = list(pool.map(lambda at: (one, other)[at % 2][orders[at]], range(16)))
    assert all(torch.equal(rows, known[order]) for rows, order in zip(found, orders, strict=True))
