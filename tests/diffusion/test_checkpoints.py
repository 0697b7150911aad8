"""Official LLaDA and Dream checkpoints as stock architectures, against an independent reading of their blocks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional
from transformers import LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from szilard.diffusion.canvas_model import MaskedDiffusionConfig
from szilard.diffusion.checkpoints import diffusion_config, read_checkpoint, read_tokenizer

LLADA: dict[str, Any] = {
    "model_type": "llada",
    "architectures": ["LLaDAModelLM"],
    "auto_map": {"AutoModel": "modeling_llada.LLaDAModelLM"},
    **{"d_model": 32, "n_heads": 4, "n_kv_heads": 4, "n_layers": 2, "mlp_hidden_size": 48, "mlp_ratio": 4},
    **{"vocab_size": 50, "embedding_size": 50, "max_sequence_length": 64, "rope_theta": 500000.0, "rms_norm_eps": 1e-5},
    **{"weight_tying": False, "mask_token_id": 48, "eos_token_id": 46, "pad_token_id": 46},
    **{"activation_type": "silu", "block_type": "llama", "layer_norm_type": "rms", "rope": True, "alibi": False},
    **{"include_bias": False, "include_qkv_bias": False, "scale_logits": False, "multi_query_attention": None},
    **{"rope_full_precision": True, "layer_norm_with_affine": True, "bias_for_layer_norm": False, "clip_qkv": None},
}
DREAM: dict[str, Any] = {
    "model_type": "Dream",
    "architectures": ["DreamModel"],
    "auto_map": {"AutoModel": "modeling_dream.DreamModel"},
    **{"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2},
    **{"intermediate_size": 48, "vocab_size": 50, "max_position_embeddings": 64, "rope_theta": 1000000.0},
    **{"rms_norm_eps": 1e-6, "tie_word_embeddings": False, "use_mrope": False, "rope_scaling": None},
    **{"use_sliding_window": False, "sliding_window": None, "max_window_layers": 28, "hidden_act": "silu"},
    **{"mask_token_id": 48, "bos_token_id": 46, "eos_token_id": 46, "pad_token_id": 46},
}
Weights = dict[str, torch.Tensor]


def llada_weights(config: dict[str, Any], dtype: torch.dtype = torch.float64) -> Weights:
    """Random weights under the official names."""
    random = torch.Generator().manual_seed(3)
    width, inner, words = config["d_model"], config["mlp_hidden_size"], config["embedding_size"]
    shared = width // config["n_heads"] * config["n_kv_heads"]
    shapes = {"wte.weight": (words, width), "ln_f.weight": (width,)}
    if not config["weight_tying"]:
        shapes["ff_out.weight"] = (words, width)
    for block in range(config["n_layers"]):
        for name, shape in {
            **{"attn_norm": (width,), "ff_norm": (width,), "q_proj": (width, width), "k_proj": (shared, width)},
            **{"v_proj": (shared, width), "attn_out": (width, width), "ff_proj": (inner, width)},
            **{"up_proj": (inner, width), "ff_out": (width, inner)},
        }.items():
            shapes[f"blocks.{block}.{name}.weight"] = shape
    return {
        f"model.transformer.{name}": (torch.randn(shape, generator=random, dtype=torch.float64) * 0.4).to(dtype)
        for name, shape in shapes.items()
    }


def dream_weights() -> Weights:
    """Random weights under the official names, which are Qwen2's."""
    random = torch.Generator().manual_seed(4)
    shapes = {"model.embed_tokens.weight": (50, 32), "model.norm.weight": (32,), "lm_head.weight": (50, 32)}
    for layer in range(2):
        part = f"model.layers.{layer}."
        for name, shape in {
            **{"input_layernorm.weight": (32,), "post_attention_layernorm.weight": (32,)},
            **{"self_attn.q_proj.weight": (32, 32), "self_attn.q_proj.bias": (32,)},
            **{"self_attn.k_proj.weight": (16, 32), "self_attn.k_proj.bias": (16,)},
            **{"self_attn.v_proj.weight": (16, 32), "self_attn.v_proj.bias": (16,)},
            **{"self_attn.o_proj.weight": (32, 32), "mlp.gate_proj.weight": (48, 32)},
            **{"mlp.up_proj.weight": (48, 32), "mlp.down_proj.weight": (32, 48)},
        }.items():
            shapes[part + name] = shape
    return {name: torch.randn(s, generator=random, dtype=torch.float64) * 0.4 for name, s in shapes.items()}


def write(folder: Path, config: dict[str, Any], weights: Weights, shards: int = 1) -> Path:
    """A checkpoint's folder, in one file or in several with an index."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    names = list(weights)
    if shards == 1:
        save_file({name: weights[name].contiguous() for name in names}, folder / "model.safetensors")
        return folder
    where = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        mine = names[shard::shards]
        save_file({name: weights[name].contiguous() for name in mine}, folder / file)
        where |= dict.fromkeys(mine, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return folder


def norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """Root-mean-square norm, whose statistics are float32 in both official codes."""
    y = x.float()
    return weight * (y * torch.rsqrt((y * y).mean(-1, keepdim=True) + eps)).to(x.dtype)


def rotated(x: torch.Tensor, theta: float) -> torch.Tensor:
    """Half-split rotation of [heads, length, dim]; the angles are float32 in both official codes."""
    length, dim = x.shape[1:]
    frequency = 1.0 / theta ** (torch.arange(0, dim, 2).float() / dim)
    angle = torch.arange(length).float()[:, None] * frequency
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    first, second = x[..., : dim // 2], x[..., dim // 2 :]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def attention(x: torch.Tensor, q: Any, k: Any, v: Any, heads: int, shared: int, theta: float) -> torch.Tensor:
    """Every position sees every position. x [length, width]; q, k, v: linear maps."""
    length = len(x)
    queries = rotated(q(x).view(length, heads, -1).transpose(0, 1), theta)
    keys = rotated(k(x).view(length, shared, -1).transpose(0, 1), theta)
    values = v(x).view(length, shared, -1).transpose(0, 1)
    out = []
    for head in range(heads):
        group = head * shared // heads
        scores = queries[head] @ keys[group].T / queries.shape[-1] ** 0.5
        out.append(scores.softmax(-1) @ values[group])
    return torch.cat(out, dim=-1)


def llada_logits(config: dict[str, Any], weights: Weights, tokens: torch.Tensor) -> torch.Tensor:
    """What the official LLaDA code computes for one row, [length] -> [length, vocab]."""
    w = {name.removeprefix("model.transformer."): tensor.double() for name, tensor in weights.items()}
    eps, x = config["rms_norm_eps"], w["wte.weight"][tokens]
    for block in range(config["n_layers"]):

        def part(name: str, block: int = block) -> torch.Tensor:
            return w[f"blocks.{block}.{name}.weight"]

        y = norm(x, part("attn_norm"), eps)
        maps = [lambda z, m=part(name): z @ m.T for name in ("q_proj", "k_proj", "v_proj")]
        x = x + attention(y, *maps, config["n_heads"], config["n_kv_heads"], config["rope_theta"]) @ part("attn_out").T
        y = norm(x, part("ff_norm"), eps)
        x = x + (functional.silu(y @ part("ff_proj").T) * (y @ part("up_proj").T)) @ part("ff_out").T
    return norm(x, w["ln_f.weight"], eps) @ w["wte.weight" if config["weight_tying"] else "ff_out.weight"].T


def bidirectional(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Logits of a stock model whose attention mask hides nothing, [length] -> [length, vocab]."""
    length = len(tokens)
    mask = torch.ones(1, 1, length, length, dtype=torch.bool)
    positions = torch.arange(length)[None]
    with torch.no_grad():
        return model(input_ids=tokens[None], attention_mask=mask, position_ids=positions, use_cache=False).logits[0]


TOKENS = torch.tensor([5, 17, 48, 48, 3, 48, 46, 11, 48])


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("variant", [{}, {"n_kv_heads": 2}, {"weight_tying": True}, {"embedding_size": 64}])
def test_a_llada_checkpoint_is_a_llama_with_the_official_logits(tmp_path, variant, shards):
    config = LLADA | variant
    weights = llada_weights(config)
    found = read_checkpoint(write(tmp_path, config, weights, shards))
    assert isinstance(found.model, LlamaForCausalLM) and found.model.dtype == torch.float64
    expected = llada_logits(config, weights, TOKENS)
    assert torch.allclose(bidirectional(found.model, TOKENS), expected, rtol=0, atol=1e-10)
    assert found.diffusion == MaskedDiffusionConfig(mask_token_id=48, eos_token_id=46)


def test_the_loaded_llada_hides_nothing_only_when_it_is_told_so(tmp_path):
    weights = llada_weights(LLADA)
    model = read_checkpoint(write(tmp_path, LLADA, weights)).model
    causal = model(input_ids=TOKENS[None]).logits[0]
    assert not torch.allclose(causal, llada_logits(LLADA, weights, TOKENS), atol=1e-3)


def test_a_dream_checkpoint_is_a_qwen2_whose_logits_are_of_the_next_position(tmp_path):
    weights = dream_weights()
    found = read_checkpoint(write(tmp_path, DREAM, weights, shards=2))
    assert isinstance(found.model, Qwen2ForCausalLM)
    assert found.diffusion == MaskedDiffusionConfig(mask_token_id=48, eos_token_id=46, shift_logits=True)
    logits = bidirectional(found.model, TOKENS)

    x = weights["model.embed_tokens.weight"][TOKENS]  # the reference, with biases and shared keys
    for layer in range(2):
        w = {
            name.removeprefix(f"model.layers.{layer}."): tensor
            for name, tensor in weights.items()
            if name.startswith(f"model.layers.{layer}.")
        }
        maps = [
            lambda z, m=w[f"self_attn.{n}_proj.weight"], b=w[f"self_attn.{n}_proj.bias"]: z @ m.T + b for n in "qkv"
        ]
        y = norm(x, w["input_layernorm.weight"], 1e-6)
        x = x + attention(y, *maps, 4, 2, 1000000.0) @ w["self_attn.o_proj.weight"].T
        y = norm(x, w["post_attention_layernorm.weight"], 1e-6)
        gate, up = y @ w["mlp.gate_proj.weight"].T, y @ w["mlp.up_proj.weight"].T
        x = x + (functional.silu(gate) * up) @ w["mlp.down_proj.weight"].T
    expected = norm(x, weights["model.norm.weight"], 1e-6) @ weights["lm_head.weight"].T
    assert torch.allclose(logits, expected, rtol=0, atol=1e-10)

    stock = Qwen2ForCausalLM(Qwen2Config(**{k: v for k, v in DREAM.items() if k not in ("model_type", "auto_map")}))
    stock.double().load_state_dict(weights)
    assert torch.allclose(logits, bidirectional(stock.eval(), TOKENS), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", torch.float16])
def test_weights_have_the_dtype_that_was_asked_for(tmp_path, dtype):
    model = read_checkpoint(write(tmp_path, LLADA, llada_weights(LLADA)), dtype).model
    wanted = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    assert {parameter.dtype for parameter in model.parameters()} == {wanted} and model.config.dtype == wanted
    assert not any(buffer.is_meta for buffer in model.buffers())


def test_stored_weights_of_one_dtype_are_held_once(tmp_path):
    weights = llada_weights(LLADA, torch.bfloat16)
    model = read_checkpoint(write(tmp_path, LLADA, weights)).model
    assert model.dtype == torch.bfloat16
    assert torch.equal(model.lm_head.weight, weights["model.transformer.ff_out.weight"])
    tied = read_checkpoint(
        write(tmp_path / "tied", LLADA | {"weight_tying": True}, llada_weights(LLADA | {"weight_tying": True}))
    )
    assert tied.model.lm_head.weight is tied.model.model.embed_tokens.weight


def test_the_mask_id_is_the_configs_and_can_be_another(tmp_path):
    folder = write(tmp_path, LLADA | {"mask_token_id": 5}, llada_weights(LLADA))
    assert read_checkpoint(folder).diffusion.mask_token_id == 5
    assert read_checkpoint(folder, mask_token_id=7).diffusion.mask_token_id == 7
    unnamed = {name: value for name, value in LLADA.items() if name != "mask_token_id"}
    with pytest.raises(ValueError, match="names no mask_token_id"):
        diffusion_config(unnamed)
    assert diffusion_config(unnamed, mask_token_id=5).mask_token_id == 5
    with pytest.raises(ValueError, match="below 50"):
        diffusion_config(LLADA, mask_token_id=50)


def test_a_model_that_was_read_is_saved_as_an_ordinary_folder_and_read_again(tmp_path):
    first = read_checkpoint(write(tmp_path / "dream", DREAM, dream_weights()))
    first.model.save_pretrained(tmp_path / "saved")
    again = read_checkpoint(tmp_path / "saved")
    assert again.diffusion == first.diffusion and type(again.model) is Qwen2ForCausalLM
    assert torch.equal(bidirectional(first.model, TOKENS), bidirectional(again.model, TOKENS))
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["model_type"] == "qwen2"


def test_ordinary_configs_are_no_diffusion_models():
    assert diffusion_config({"model_type": "llama", "vocab_size": 50, "mask_token_id": 3}) is None
    assert diffusion_config({}) is None
    entry = {"mask_token_id": 3, "shift_logits": True}
    found = diffusion_config({"model_type": "gpt2", "vocab_size": 50, "masked_diffusion": entry})
    assert found == MaskedDiffusionConfig(mask_token_id=3, shift_logits=True)


@pytest.mark.parametrize(
    ("entry", "error", "words"),
    [
        ({"mask_id": 3}, ValueError, "no setting 'mask_id'.*mask_token_id"),
        ({"mask_token_id": "3"}, TypeError, "whole number"),
        ({"mask_token_id": 99}, ValueError, "below 50"),
        ({"mask_token_id": 3, "shift_logits": 1}, TypeError, "True or False"),
        ([3], ValueError, "must hold settings"),
    ],
)
def test_wrong_entries_are_refused_in_one_sentence(entry, error, words):
    with pytest.raises(error, match=words) as caught:
        diffusion_config({"model_type": "gpt2", "vocab_size": 50, "masked_diffusion": entry})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("variant", "words"),
    [
        ({"alibi": True}, "alibi=True"),
        ({"include_bias": True}, "include_bias=True"),
        ({"include_qkv_bias": True}, "include_qkv_bias=True"),
        ({"activation_type": "gelu"}, "activation_type='gelu'"),
        ({"layer_norm_type": "default"}, "layer_norm_type='default'"),
        ({"block_type": "sequential"}, "block_type='sequential'"),
        ({"attention_layer_norm": True}, "attention_layer_norm=True"),
        ({"scale_logits": True}, "scale_logits=True"),
        ({"rope": False}, "rope=False"),
        ({"embedding_size": 40}, "embedding_size=40.*less than vocab_size=50"),
        ({"n_kv_heads": 3}, "do not divide"),
        ({"rope_theta": None}, "rope_theta as a positive number, not None"),
        ({"n_layers": 1.5}, "n_layers as a whole number"),
        ({"quantization_config": {"bits": 4}}, "quantised"),
    ],
)
def test_what_a_llama_cannot_express_is_refused(tmp_path, variant, words):
    folder = write(tmp_path, LLADA | variant, llada_weights(LLADA))
    with pytest.raises(ValueError, match=words) as caught:
        read_checkpoint(folder)
    assert "\n" not in str(caught.value)


def _without(weights: Weights, name: str) -> Weights:
    return {key: tensor for key, tensor in weights.items() if key != name}


FF_OUT = "model.transformer.ff_out.weight"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda w: _without(w, FF_OUT), "lm_head.weight is missing"),
        (lambda w: w | {"model.transformer.wpe.weight": torch.ones(2)}, "wpe.weight, which this architecture"),
        (lambda w: w | {"model.transformer.blocks.7.ff_norm.weight": torch.ones(32)}, "blocks.7.ff_norm"),
        (lambda w: w | {FF_OUT: torch.ones(50, 31)}, r"\[50, 31\], but config.json makes it \[50, 32\]"),
        (lambda w: w | {FF_OUT: torch.ones(50, 32, dtype=torch.int8)}, "quantised checkpoints are not read"),
    ],
)
def test_weights_that_do_not_fit_are_refused(tmp_path, change, words):
    folder = write(tmp_path, LLADA, change(llada_weights(LLADA)))
    with pytest.raises(ValueError, match=words) as caught:
        read_checkpoint(folder)
    assert "\n" not in str(caught.value)


def test_damaged_folders_are_refused(tmp_path):
    folder = write(tmp_path / "a", LLADA, llada_weights(LLADA), shards=2)
    shard = folder / "model-00002-of-00002.safetensors"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-9])
    with pytest.raises(ValueError, match="damaged"):
        read_checkpoint(folder)
    shard.unlink()
    with pytest.raises(ValueError, match="lacks 'model-00002"):
        read_checkpoint(folder)
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../b.safetensors"}}')
    with pytest.raises(ValueError, match="outside its folder"):
        read_checkpoint(folder)

    pickled = tmp_path / "b"
    pickled.mkdir()
    with pytest.raises(ValueError, match=r"no config\.json"):
        read_checkpoint(pickled)
    (pickled / "config.json").write_text(json.dumps(LLADA))
    with pytest.raises(ValueError, match="holds no weights"):
        read_checkpoint(pickled)
    for config in (LLADA, {"model_type": "llama", "vocab_size": 50, "masked_diffusion": {"mask_token_id": 4}}):
        (pickled / "config.json").write_text(json.dumps(config))
        (pickled / "pytorch_model.bin").write_bytes(b"")
        with pytest.raises(ValueError, match="a pickle"):
            read_checkpoint(pickled)
    (pickled / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ValueError, match="no masked diffusion model that is known"):
        read_checkpoint(pickled)
    with pytest.raises(ValueError, match="dtype must be one of"):
        read_checkpoint(pickled, "float8")


def test_a_stock_folder_with_weights_missing_is_refused(tmp_path):
    model = read_checkpoint(write(tmp_path / "dream", DREAM, dream_weights())).model
    model.save_pretrained(tmp_path / "saved")
    file = tmp_path / "saved" / "model.safetensors"
    save_file(_without(dream_weights(), "model.norm.weight"), file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"missing keys model\.norm\.weight"):
        read_checkpoint(tmp_path / "saved")


SPECIAL = {"46": "<|endoftext|>", "47": "<|im_end|>", "48": "<|mask|>", "49": "<|eot_id|>"}


def tokenizer_settings(kind: str) -> str:
    decoder = {
        token: {"content": text, "special": True, "lstrip": False, "rstrip": False, "normalized": False}
        | {"single_word": False}
        for token, text in SPECIAL.items()
    }
    named = {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>", "mask_token": "<|mask|>"}
    chat = "{% for message in messages %}{{ message['content'] }}<|im_end|>{% endfor %}"
    mapped = {"auto_map": {"AutoTokenizer": ["tokenization_dream.DreamTokenizer", None]}} if kind[0] == "D" else {}
    return json.dumps(
        {"tokenizer_class": kind, "added_tokens_decoder": decoder, "chat_template": chat, **named, **mapped}
    )


def byte_vocabulary() -> dict[str, int]:
    letters = [*"abcdefghijklmnopqrstuvwxyz0123456789", "Ġ", "Ċ", ".", "!", "?"]  # 46 with the merged ones
    return {text: token for token, text in enumerate([*letters, "th", "the", "Ġthe", "Ġt", "Ġth"])}


def test_dreams_tokenizer_is_a_qwen2_one(tmp_path):
    write(tmp_path, DREAM, dream_weights())
    (tmp_path / "vocab.json").write_text(json.dumps(byte_vocabulary()))
    (tmp_path / "merges.txt").write_text("#version: 0.2\nt h\nth e\nĠ t\nĠt h\nĠth e\n")
    (tmp_path / "tokenizer_config.json").write_text(tokenizer_settings("DreamTokenizer"))
    found = read_checkpoint(tmp_path)
    tokenizer = found.tokenizer()
    ids = tokenizer.encode("the cat in the hat.<|im_end|>")
    assert tokenizer.decode(ids) == "the cat in the hat.<|im_end|>" and ids[-1] == 47
    assert byte_vocabulary()["the"] in ids and tokenizer.mask_token_id == 48 and tokenizer.eos_token_id == 46
    assert found.diffusion.eot_token_id == 47
    assert tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False) == "hi<|im_end|>"


def test_lladas_tokenizer_is_a_plain_fast_one(tmp_path):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    write(tmp_path, LLADA, llada_weights(LLADA))
    built = Tokenizer(models.BPE(vocab=byte_vocabulary(), merges=[("t", "h"), ("th", "e")]))
    built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    built.decoder = decoders.ByteLevel()
    built.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(tokenizer_settings("PreTrainedTokenizerFast"))
    found = read_checkpoint(tmp_path)
    assert found.diffusion.eot_token_id == 49
    ids = found.tokenizer().encode("the cat<|eot_id|>")
    assert ids[0] == byte_vocabulary()["the"] and found.tokenizer().decode(ids) == "the cat<|eot_id|>"


def test_a_tokenizer_with_other_special_tokens_than_its_settings_is_refused(tmp_path):
    write(tmp_path, DREAM, dream_weights())
    (tmp_path / "vocab.json").write_text(json.dumps(byte_vocabulary() | {"x.": 46}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\nt h\nth e\nĠ t\nĠt h\nĠth e\nx .\n")
    (tmp_path / "tokenizer_config.json").write_text(tokenizer_settings("DreamTokenizer"))
    with pytest.raises(ValueError, match="as token 47, but its settings say 46"):
        read_tokenizer(tmp_path)


@pytest.mark.parametrize(("config", "file"), [(LLADA, "tokenizer.json"), (DREAM, "vocab.json")])
def test_a_missing_tokenizer_is_named(tmp_path, config, file):
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=f"lacks '{file}'"):
        read_tokenizer(tmp_path)
