"""The Triton kernel gives what gathering and attending gives; `tests` has Triton's interpreter run it on the CPU."""

import importlib.util
import os

import pytest
import torch

from szilard.attention import gather_attention
from szilard.attention.sparse import attend_to_chosen
from szilard.sessions.call import Call

if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is not installed", allow_module_level=True)
DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"

SHAPES = {  # batch, heads, kv heads, new, size, stored, sets, k
    "a step, one set": (1, 4, 2, 1, 16, 300, 1, 130),
    "a set per kv head": (2, 6, 2, 1, 64, 90, 2, 64),
    "a set per query head": (2, 4, 2, 1, 32, 50, 4, 7),
    "no groups": (1, 3, 3, 1, 8, 40, 3, 40),
    "a block of tokens": (2, 4, 2, 3, 24, 70, 1, 33),
    "a tree, a set per head": (1, 4, 1, 5, 16, 70, 4, 20),
}


def example(name, *, holes=True, dtype=torch.float32):
    batch, heads, kv_heads, new, size, stored, sets, k = SHAPES[name]
    generator = torch.Generator().manual_seed(5)
    draw = lambda *shape: torch.randn(*shape, generator=generator).to(dtype)  # noqa: E731
    room = [draw(batch, kv_heads, stored + 9, size)[:, :, :stored] for _ in range(2)]  # views of a larger buffer
    query = draw(batch, new, heads, size).transpose(1, 2)  # as a layer gives it: not contiguous
    scores = torch.rand(batch, sets, new, stored, generator=generator)
    slots = scores.topk(k, dim=-1).indices
    if holes:
        slots[torch.rand(slots.shape, generator=generator) < 0.2] = -1
        slots[..., 0] = 0
    call = Call(0, None, query, room[0], room[1], None, stored - new, 0.3, False)
    return call, slots


def kernel(call, slots):
    """What the kernel gives, on the CPU."""
    given = [tensor.to(DEVICE) for tensor in (call.query, call.keys, call.values, slots)]
    return gather_attention.attend(*given, call.scaling).cpu()


@pytest.mark.parametrize("holes", [True, False], ids=["with holes", "full"])
@pytest.mark.parametrize("name", SHAPES)
def test_the_kernel_gives_what_gathering_gives(name, holes):
    call, slots = example(name, holes=holes)
    out = kernel(call, slots)
    assert torch.allclose(out, attend_to_chosen(call, slots), atol=1e-5, rtol=0)


def test_half_precision_is_accumulated_in_single():
    call, slots = example("a set per kv head", dtype=torch.float16)
    out = kernel(call, slots)
    exact, _ = example("a set per kv head")
    assert out.dtype == torch.float16
    assert torch.allclose(out.float(), attend_to_chosen(exact, slots), atol=3e-3, rtol=0)


def test_a_token_without_a_slot_gets_zeros():
    call, slots = example("a step, one set")
    out = kernel(call, torch.full_like(slots, -1))
    assert not out.any()


def test_on_the_cpu_keys_are_gathered():
    assert not gather_attention.usable(torch.zeros(1, 1, 1, 1))
