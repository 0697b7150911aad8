"""Exact arithmetic gives the same bits in any order of its sums, in any batch, for any number of threads."""

from __future__ import annotations

import os
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from szilard.codecs.exact import ExactArithmetic, exact_copy, plain_float32
from szilard.codecs.quantizers import Rounding
from tests.codecs.conftest import pixels, tiny_codec


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def numbers(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def test_a_convolution_gives_the_same_bits_for_permuted_channels() -> None:
    x, weight, order = numbers(2, 96, 6, 6) * 7, numbers(8, 96, 3, 3), torch.randperm(96)
    with ExactArithmetic():
        first, second = F.conv2d(x, weight, padding=1), F.conv2d(x[:, order], weight[:, order], padding=1)
    assert torch.equal(first, second)
    plain = F.conv2d(x, weight, padding=1)
    assert not torch.equal(plain, F.conv2d(x[:, order], weight[:, order], padding=1))
    assert torch.allclose(first, plain, atol=1e-3)


def test_products_and_sums_give_the_same_bits_in_any_order() -> None:
    a, b, weight, order = numbers(2, 5, 200), numbers(2, 200, 4), numbers(7, 200), torch.randperm(200)
    with ExactArithmetic():
        pairs = [
            (a @ b, a[..., order] @ b[:, order]),
            (F.linear(a, weight), F.linear(a[..., order], weight[:, order])),
            (a.sum(-1), a[..., order].sum(-1)),
            (a.mean(-1), a[..., order].mean(-1)),
            (F.softmax(a, -1)[..., order], F.softmax(a[..., order], -1)),
            (F.layer_norm(a, (200,))[..., order], F.layer_norm(a[..., order], (200,))),
        ]
    for first, second in pairs:
        assert torch.equal(first, second)


def test_a_sample_has_the_same_bits_beside_a_far_larger_one() -> None:
    small, weight, matrix = numbers(1, 16, 4, 4), numbers(4, 16, 3, 3), numbers(4, 16)
    both = torch.cat([small, small * 1e7])
    with ExactArithmetic():
        rows, alone = both.flatten(2).transpose(1, 2), small.flatten(2).transpose(1, 2)
        pairs = [
            (F.conv2d(both, weight), F.conv2d(small, weight)),
            (F.linear(rows, matrix), F.linear(alone, matrix)),
            (rows @ rows.transpose(1, 2), alone @ alone.transpose(1, 2)),
            (
                F.conv_transpose2d(both, weight.transpose(0, 1)),
                F.conv_transpose2d(small, weight.transpose(0, 1)),
            ),
        ]
    for together, apart in pairs:
        assert torch.equal(together[:1], apart)


def test_functions_are_close_to_the_real_ones() -> None:
    x = torch.linspace(-12, 12, 5001, dtype=torch.float64)
    with ExactArithmetic():
        found = [F.gelu(x), torch.sigmoid(x), torch.tanh(x), (x * 40).cos(), (x * 40).sin(), x.exp() / (1 + x.exp())]
    wanted = [F.gelu(x), torch.sigmoid(x), torch.tanh(x), (x * 40).cos(), (x * 40).sin(), torch.sigmoid(x)]
    for one, other in zip(found, wanted, strict=True):
        assert torch.allclose(one, other, atol=1e-6)


@pytest.mark.parametrize(
    ("operation", "named"),
    [
        (lambda x: torch.fft.fft(x), "fft"),
        (lambda x: x.cumsum(-1), "cumsum"),
        (lambda x: x.log(), "log"),
        (lambda x: torch.add(x, x, alpha=3), "add"),
        (lambda x: torch.einsum("ij,kj->ik", x, x), "einsum"),
        (lambda x: x.std(), "std"),
    ],
)
def test_other_operations_are_refused(operation: object, named: str) -> None:
    x = numbers(3, 4)
    with ExactArithmetic(), pytest.raises(TypeError, match=named):
        operation(x)  # type: ignore[operator]


def test_float32_a_sum_over_samples_and_large_powers_are_refused() -> None:
    single, weight, double, fifty = torch.randn(2, 3), torch.randn(4, 3), numbers(3, 4), numbers(3) * 0 + 50
    with ExactArithmetic():
        with pytest.raises(TypeError, match="float64"):
            F.linear(single, weight)
        with pytest.raises(TypeError, match="over samples"):
            double.sum(-2)
        with pytest.raises(TypeError, match="up to"):
            fifty.exp()


@pytest.mark.filterwarnings("ignore:.*CUDA is not available")
def test_float32_is_whole_and_settings_come_back() -> None:
    def now() -> tuple[object, ...]:
        own = torch.backends.cudnn
        return torch.get_float32_matmul_precision(), own.deterministic, own.benchmark, own.allow_tf32

    before = now()
    torch.set_float32_matmul_precision("high")
    try:
        with pytest.raises(KeyError), plain_float32(torch.device("cuda")):
            assert now() == ("highest", True, False, False)
            raise KeyError
        assert now() == ("high", *before[1:])
    finally:
        torch.set_float32_matmul_precision(before[0])


def test_a_copy_leaves_its_module_as_it_is() -> None:
    module = nn.Conv2d(3, 4, 3)
    copied = exact_copy(module)
    assert copied.weight.dtype == torch.float64
    assert not copied.weight.requires_grad
    assert module.weight.dtype == torch.float32
    assert module.weight.requires_grad


def test_an_exact_walk_is_close_to_the_walk_in_float64() -> None:
    codec = tiny_codec()
    y, z = codec.g_a(pixels()), codec.h_a(codec.g_a(pixels()))
    with torch.no_grad():
        z_hat = codec.entropy_bottleneck.quantize(z)
        found = codec._predicted(z_hat, Rounding(y.double()))
        twin = codec._exact_twin()
        plain = twin.walk(twin.h_s(z_hat.double()), Rounding(y.double()))
    assert torch.allclose(found.scales, plain.scales, atol=1e-3)
    assert torch.allclose(found.y_hat, plain.y_hat, atol=1e-3)


def test_weights_that_change_or_move_change_the_exact_copy() -> None:
    codec = tiny_codec(slices=1)
    before = codec._exact_twin()
    assert codec._exact_twin() is before
    head = codec.entropy_parameters_anchor[0].fusion[0].weight
    kept = head.data
    head.data = kept.clone()
    assert codec._exact_twin() is not before
    head.data = kept


_DECODER = """
import sys, zlib, torch
from szilard.codecs.container import Bitstream
from szilard.codecs.opening import open_codec
from pathlib import Path
torch.set_num_threads(int(sys.argv[3]))
coded = Bitstream.load(Path(sys.argv[2])).tiles[0]
latent = open_codec(sys.argv[1]).decode_latents([[one] for one in coded.streams], coded.shape, [coded.check])
print(torch.get_num_threads(), zlib.crc32(latent.numpy().tobytes()))
"""


def test_other_processes_with_other_numbers_of_threads_decode_the_same_latents(tmp_path: Path) -> None:
    from szilard.codecs.coding import encode
    from szilard.codecs.images import Picture
    from tests.codecs.conftest import samples

    codec = tiny_codec()
    codec.save_pretrained(tmp_path / "codec")
    coded = encode(codec, Picture(samples(60, 70)))
    coded.save(tmp_path / "picture.szc")
    tile = coded.tiles[0]
    latent = codec.decode_latents([[one] for one in tile.streams], tile.shape, [tile.check])
    wanted = zlib.crc32(latent.numpy().tobytes())
    started = []
    for threads in ("1", "2", "4"):  # at once: most of the time goes into imports
        command = [sys.executable, "-c", _DECODER, str(tmp_path / "codec"), str(tmp_path / "picture.szc"), threads]
        environment = os.environ | {"OMP_NUM_THREADS": threads, "PYTHONPATH": os.pathsep.join(sys.path)}
        environment["OMP_WAIT_POLICY"] = "passive"  # more threads than cores
        started.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
    for threads, process in zip(("1", "2", "4"), started, strict=True):
        assert process.communicate()[0].split() == [threads, str(wanted)]
