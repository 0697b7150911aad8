"""Linear layers through oneDNN: the same numbers, gradients as before, other precisions untouched."""

import pytest
import torch

from szilard.engines import fast_linear
from szilard.engines.fast_linear import FastLinear, use_fast_linears

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this PyTorch has no oneDNN")


@pytest.fixture
def pair(monkeypatch):
    monkeypatch.setattr(fast_linear, "onednn_is_faster", lambda: True)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(24, 40), torch.nn.SiLU(), torch.nn.Linear(40, 8, bias=False))
    reference = [parameter.clone() for parameter in model.parameters()]
    use_fast_linears(model)
    return model, reference


@pytest.mark.parametrize("rows", [1, 3, 17])
def test_it_gives_what_the_plain_layer_gives(pair, rows):
    model, (weight, bias, last) = pair
    x = torch.randn(2, rows, 24)
    with torch.no_grad():
        found = model(x)
        expected = torch.nn.functional.silu(x @ weight.T + bias) @ last.T
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert isinstance(model[0], FastLinear) and isinstance(model[0], torch.nn.Linear)


def test_gradients_flow_as_before(pair):
    model, _ = pair
    x = torch.randn(2, 24, requires_grad=True)
    model(x).sum().backward()
    assert x.grad is not None and model[0].weight.grad is not None


def test_other_precisions_are_left_alone(pair):
    model, _ = pair
    double = torch.nn.Linear(4, 4).double()
    use_fast_linears(double)
    assert type(double) is torch.nn.Linear
    with torch.no_grad():
        assert model.double()(torch.randn(2, 24, dtype=torch.float64)).dtype == torch.float64


def test_weights_keep_their_names_and_may_be_changed(pair):
    model, _ = pair
    assert set(model.state_dict()) == {"0.weight", "0.bias", "2.weight"}
    x = torch.randn(1, 24)
    with torch.no_grad():
        before = model(x)
        model[2].weight.mul_(2)
        torch.testing.assert_close(model(x), 2 * before)


def test_a_machine_is_asked_once(monkeypatch, tmp_path):
    monkeypatch.setenv("SZILARD_CACHE", str(tmp_path))
    measured = []
    monkeypatch.setattr(fast_linear, "_measured", lambda: measured.append(1) or True)
    for _ in range(2):
        fast_linear.onednn_is_faster.cache_clear()  # as in another process
        assert fast_linear.onednn_is_faster()
    assert len(measured) == 1
    (kept,) = (tmp_path / "profiles").iterdir()
    kept.write_text("damaged")
    fast_linear.onednn_is_faster.cache_clear()
    assert fast_linear.onednn_is_faster() and len(measured) == 2
    fast_linear.onednn_is_faster.cache_clear()
    model = torch.nn.Sequential(torch.nn.Linear(4, 4))
    kept.write_text("BLAS")
    use_fast_linears(model)
    assert type(model[0]) is torch.nn.Linear
    fast_linear.onednn_is_faster.cache_clear()
