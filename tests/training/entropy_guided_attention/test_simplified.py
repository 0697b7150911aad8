"""Simplified models: they are the stock ones where nothing is changed, they generate, are folded and come back."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from torch.nn.utils import parametrize
from transformers import GPT2LMHeadModel, OPTConfig, T5Config

import szilard
from szilard.training.entropy_guided_attention import (
    fold_for_inference,
    read_simplified,
    simplification_of,
    simplified,
    simplify_gpt2,
)
from szilard.training.entropy_guided_attention.feed_forward import FusedFeedForward, ScaledFeedForward
from szilard.training.entropy_guided_attention.temperature import Temperature
from tests.conftest import tiny_model, tiny_tokenizer
from tests.training.entropy_guided_attention.tiny import VARIANTS, config, model_of, text

EVERY = pytest.mark.parametrize("variant", VARIANTS)


def stock(activation="gelu_new"):
    torch.manual_seed(0)
    made = GPT2LMHeadModel(config()).double().eval()
    made.config.activation_function = activation
    for block in made.transformer.h:
        block.mlp.act = {"gelu_new": block.mlp.act, "linear": torch.nn.Identity()}[activation]
    return made


@torch.no_grad()
def test_the_baseline_is_the_stock_model():
    model = stock()
    same = simplified(model, VARIANTS["SM+LN+G"])
    assert torch.equal(model(text()).logits, same(text()).logits)
    assert getattr(model.config, "entropy_guided_attention", None) is None


@torch.no_grad()
def test_a_temperature_of_one_is_standard_attention():
    model = stock()
    for kind in ("head", "head_pos"):
        tempered = simplify_gpt2(
            model, layernorm=True, activation="gelu_new", fuse_ffn=False, attn_temperature=kind, temperature_init=1.0
        )
        assert torch.allclose(model(text()).logits, tempered(text()).logits, atol=1e-6)


@torch.no_grad()
def test_temperatures_divide_the_scores_of_their_head_and_position():
    model = model_of("SM+LN+G, t per position")
    plain = simplified(stock(), VARIANTS["SM+LN+G"])
    missing, extra = plain.load_state_dict(model.state_dict(), strict=False)
    assert not missing and all("temperature" in name for name in extra)
    seen = {}

    def note(name):
        return lambda module, arguments, output: seen.__setitem__(name, output)

    model.transformer.h[0].attn.c_attn.register_forward_hook(note("divided"))
    plain.transformer.h[0].attn.c_attn.register_forward_hook(note("plain"))
    positions = torch.tensor([[0, 1, 2, 3, 4], [2, 3, 4, 5, 6]])
    for one in (model, plain):
        one(text(2, 5), position_ids=positions)
    t = model.transformer.h[0].attn.temperature.t  # [heads, positions]
    shares = (seen["plain"] / seen["divided"])[..., :32].unflatten(-1, (4, 8))
    for row in range(2):
        assert torch.allclose(shares[row], t[:, positions[row]].T[..., None].expand(5, 4, 8), rtol=1e-6)
    assert torch.equal(seen["plain"][..., 32:], seen["divided"][..., 32:])


@torch.no_grad()
def test_scales_of_one_are_a_plain_residual_connection():
    torch.manual_seed(1)
    scaled = simplified(config(), VARIANTS["ScFuFFN"]).double().eval()
    torch.manual_seed(1)
    plain = simplified(config(), VARIANTS["FuFFN"]).double().eval()
    assert torch.allclose(plain(text()).logits, scaled(text()).logits, atol=1e-9)
    network = scaled.transformer.h[0].mlp
    network.alpha.fill_(2.0)
    network.beta.fill_(0.5)
    x = torch.randn(1, 3, 32, generator=torch.Generator().manual_seed(0)).double()
    assert torch.allclose(x + network(x), 0.5 * x + network.network(x) / 2, atol=1e-12)
    network.alpha.fill_(0.0)
    assert bool(torch.isfinite(network(x)).all())


@torch.no_grad()
def test_a_fused_network_is_the_product_of_the_two_matrices():
    model = stock("linear")
    fused = simplify_gpt2(model, layernorm=True)
    first, second = model.transformer.h[0].mlp.c_fc, model.transformer.h[0].mlp.c_proj
    network = fused.transformer.h[0].mlp
    assert isinstance(network, FusedFeedForward)
    assert torch.allclose(network.fused.weight, first.weight @ second.weight, atol=1e-5)
    assert torch.allclose(model(text()).logits, fused(text()).logits, atol=1e-5)


@EVERY
@torch.no_grad()
def test_generating_with_a_cache_and_without_one_is_the_same(variant):
    model, ids = model_of(variant), text(2, 8)
    mask = torch.ones_like(ids)
    mask[1, :3] = 0  # padded on the left
    options = {"attention_mask": mask, "max_new_tokens": 10, "do_sample": False, "eos_token_id": None}
    with_cache = model.generate(ids, use_cache=True, **options)
    assert torch.equal(with_cache, model.generate(ids, use_cache=False, **options))
    alone = model.generate(ids[1:, 3:], max_new_tokens=10, do_sample=False, eos_token_id=None)
    assert torch.equal(with_cache[1, 8:], alone[0, 5:])


@EVERY
@torch.no_grad()
def test_folding_changes_nothing_but_the_number_of_parts(variant):
    model = model_of(variant)
    before = copy.deepcopy(model.state_dict())
    folded = fold_for_inference(model)
    assert torch.allclose(model(text()).logits, folded(text()).logits, rtol=1e-9, atol=1e-9)
    assert all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())
    assert not any(parametrize.is_parametrized(module) for module in folded.modules())
    kept = [module for module in folded.modules() if isinstance(module, Temperature)]
    assert bool(kept) == (VARIANTS[variant].attn_temperature == "head_pos")
    assert all(module.alpha is None for module in folded.modules() if isinstance(module, ScaledFeedForward))
    fused = any(isinstance(module, FusedFeedForward) for module in folded.modules())
    assert fused == VARIANTS[variant].linear
    again = fold_for_inference(folded)
    assert torch.equal(again(text()).logits, folded(text()).logits)


@EVERY
@torch.no_grad()
def test_a_folder_is_read_as_it_was_written(variant, tmp_path):
    model = model_of(variant)
    for one, name in ((model, "made"), (fold_for_inference(model), "folded")):
        one.save_pretrained(tmp_path / name)
        state = torch.get_rng_state()
        read = read_simplified(tmp_path / name)
        assert torch.equal(state, torch.get_rng_state())
        assert torch.equal(one(text()).logits, read(text()).logits) and not read.training
        assert simplification_of(read.config) == simplification_of(one.config)


@torch.no_grad()
def test_a_folder_is_a_model_like_any_other(tmp_path):
    torch.manual_seed(0)
    made = config()
    made.vocab_size = len(tiny_tokenizer())
    model = simplified(made, VARIANTS["SM(t)+ScFuFFN"])
    model.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    engine = szilard.load(tmp_path, device="cpu")
    assert torch.allclose(engine.model(text()).logits, model.eval()(text()).logits, atol=1e-5)
    assert len(engine.generate("w9 w10", max_new_tokens=4, raw=True).tokens) == 4


@torch.no_grad()
def test_normalised_weights_are_normalised():
    weight, spectral = model_of("SM, weight norm"), model_of("SM, spectral norm")
    layer = weight.transformer.h[0].mlp.c_fc
    gain = layer.parametrizations.weight[0].gain
    assert torch.allclose(layer.weight.norm(dim=0), gain.abs(), atol=1e-9)
    torch.manual_seed(0)
    fresh = simplified(config(), VARIANTS["SM, weight norm"])
    torch.manual_seed(0)
    plain = simplified(config(), VARIANTS["SM"])
    assert torch.allclose(fresh.transformer.h[0].mlp.c_fc.weight, plain.transformer.h[0].mlp.c_fc.weight, atol=1e-6)
    spectral.train()
    for _ in range(60):
        spectral(text())
    spectral.eval()
    for name in ("c_fc", "c_proj"):
        largest = torch.linalg.svdvals(getattr(spectral.transformer.h[0].mlp, name).weight)[0]
        assert float(largest) == pytest.approx(1.0, abs=1e-2)
    joint = model_of("SM+LN+G, spectral norm of QK").train()
    for _ in range(60):
        joint(text())
    layer = joint.eval().transformer.h[0].attn.c_attn
    q, k, v = layer.weight.split(32, 1)
    assert [float(torch.linalg.svdvals(part)[0]) for part in (q, k)] == pytest.approx([1.0, 1.0], abs=2e-2)
    assert torch.equal(v, layer.parametrizations.weight.original[:, 64:])


def test_power_iteration_stands_still_in_eval_and_the_gradient_is_that_of_the_division():
    model = model_of("SM, spectral norm")
    layer = model.transformer.h[0].mlp.c_fc
    before = layer.parametrizations.weight[0].inner.clone()
    model(text())
    assert torch.equal(before, layer.parametrizations.weight[0].inner)
    model.train()
    for _ in range(200):
        model(text())
    model.eval()
    original = layer.parametrizations.weight.original
    probe = torch.randn(original.shape, generator=torch.Generator().manual_seed(0)).double()
    (found,) = torch.autograd.grad((layer.weight * probe).sum(), [original])
    free = original.detach().clone().requires_grad_()
    (expected,) = torch.autograd.grad((free / torch.linalg.svdvals(free)[0] * probe).sum(), [free])
    assert torch.allclose(found, expected, atol=1e-2 * float(expected.abs().max()))


@torch.no_grad()
def test_llama_loses_norms_and_gets_temperatures_but_its_gate_stays(tmp_path):
    for architecture in ("llama", "qwen2"):
        model = tiny_model(architecture)
        same = simplify_gpt2(model, layernorm=True, activation="silu", fuse_ffn=False)
        assert torch.allclose(model(text()).logits, same(text()).logits, atol=1e-9)
        for changes in (
            {"attn_temperature": "head", "ffn_norm": "weight", "norm_of": "qkvo+ffn"},
            {"attn_temperature": "head_pos", "ffn_norm": "scale"},
        ):
            changed = simplify_gpt2(model, fuse_ffn=False, temperature_init=0.5, **changes)
            for parameter in changed.parameters():
                parameter += 0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)).double()
            options = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None}
            ids = changed.generate(text(), **options)
            assert torch.equal(ids, changed.generate(text(), use_cache=False, **options))
            folded = fold_for_inference(changed)
            assert torch.allclose(changed(text()).logits, folded(text()).logits, rtol=1e-8, atol=1e-8)
            folded.save_pretrained(tmp_path)
            assert torch.equal(read_simplified(tmp_path)(text()).logits, folded(text()).logits)


@torch.no_grad()
def test_a_text_behind_the_last_temperature_is_refused():
    llama = simplify_gpt2(tiny_model("llama"), fuse_ffn=False, attn_temperature="head_pos")
    with pytest.raises(ValueError, match="for each of 256 positions, and none for position 299"):
        llama(text(1, 300))
    assert llama.model.layers[0].self_attn.temperature.t.shape == (4, 256)


def test_bad_input_is_told(tmp_path):
    for options, words in (
        ({"activation": "gelu"}, "set activation=None, or fuse_ffn=False"),
        ({"activation": "rleu", "fuse_ffn": False}, "did you mean 'relu'"),
        ({"ffn_norm": "scale", "layernorm": True}, "in the place of layer normalisation"),
        ({"ffn_norm": "batch"}, "ffn_norm must be one of"),
        ({"attn_temperature": "layer"}, "attn_temperature must be one of"),
        ({"temperature_init": 0.0}, "temperature_init must be between"),
        ({"norm_of": "kq"}, "norm_of must be one of"),
    ):
        with pytest.raises(ValueError, match=words):
            simplify_gpt2(config(), **options)
    with pytest.raises(ValueError, match="not linear even without activation"):
        simplify_gpt2(tiny_model("llama"))
    with pytest.raises(ValueError, match="can be simplified, not 'opt'"):
        simplify_gpt2(OPTConfig())
    with pytest.raises(ValueError, match="can be simplified, not 't5'"):
        simplify_gpt2(T5Config())
    with pytest.raises(TypeError, match="simplify a config or a model of transformers, not a Linear"):
        simplify_gpt2(torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match="simplified already"):
        simplify_gpt2(model_of("SM"))
    with pytest.raises(ValueError, match="has parts to fold"):
        fold_for_inference(stock())
    with pytest.raises(ValueError, match="holds no model"):
        read_simplified(tmp_path)
    stock().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="holds a stock model"):
        read_simplified(tmp_path)
    model = model_of("SM")
    model.save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    entries = json.loads(file.read_text())
    entries["entropy_guided_attention"]["layernorm"] = True
    file.write_text(json.dumps(entries))
    with pytest.raises(ValueError, match=r"do not fit its config\.json: they lack transformer\.h\.0\.ln_1\.bias"):
        read_simplified(tmp_path)
    entries["entropy_guided_attention"]["layernrom"] = True
    file.write_text(json.dumps(entries))
    with pytest.raises(ValueError, match="has no setting 'layernrom'; did you mean 'layernorm'"):
        read_simplified(tmp_path)
