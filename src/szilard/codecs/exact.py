"""Arithmetic whose results no machine can change: what a decoder predicts is what the encoder predicted, bit for bit.

A learned codec's decoder must find the very numbers from which the encoder chose its tables. Sums of floating-point
numbers depend on their order, which differs between devices, libraries and numbers of threads; one scale on the other
side of a table's border, and the rest of the picture is noise.

Here modules run unchanged, in float64, and every operation is one of four kinds:
- Element by element, +, -, *, /, sqrt, comparisons: rounded correctly by IEEE 754, the same everywhere.
- Products of matrices and convolutions: both factors are first rounded to multiples of 2^-f, with f so large that every
  sum of products is a whole number below 2^53 in units of the product. Such sums are exact in any order. f follows from
  the largest absolute value of each sample or of the weights, which is exact, too. Factors keep about 20 to 26 bits.
- Sums: the same, with one factor.
- Functions (exp, tanh, the normal distribution, ...): tables with linear interpolation, whose entries are rounded to
  2^-32 and whose checksum is verified.
Any other operation is refused.
"""

from __future__ import annotations

import contextlib
import copy
import math
import zlib
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

_BITS = 52  # sums stay below 2^52 units
_MOST = 30  # bits behind the point that are ever kept
_STEPS = 10  # a table has 2^10 entries per unit


def exact_copy(module: nn.Module) -> nn.Module:
    """A frozen float64 copy of a module, for use under `ExactArithmetic`."""
    return copy.deepcopy(module).double().eval().requires_grad_(False)


class ExactArithmetic(TorchFunctionMode):
    """Within this context float64 operations give the same bits on every machine.

    Raises (inside):
        TypeError: an operation that is not known to be exact, or numbers of another type.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = {} if kwargs is None else kwargs
        own = _EXACT.get(func)
        if own is not None:
            with torch._C.DisableTorchFunction():
                return own(*args, **kwargs)
        if getattr(func, "__name__", "") not in _HARMLESS or "alpha" in kwargs:  # a + alpha b may be rounded once
            raise TypeError(f"{getattr(func, '__name__', func)} is not known to be the same on every machine.")
        return func(*args, **kwargs)


@contextlib.contextmanager
def plain_float32(device: torch.device) -> Iterator[None]:
    """Products in whole float32, of deterministic kernels, whatever the caller's settings are.

    A decoder may run outside of the autocast, or without the TF32, in which a file was coded.
    """
    if device.type != "cuda":
        with torch.autocast(device.type, enabled=False):
            yield
        return
    precision, cudnn = torch.get_float32_matmul_precision(), torch.backends.cudnn
    torch.set_float32_matmul_precision("highest")
    try:
        with (
            torch.autocast("cuda", enabled=False),
            cudnn.flags(enabled=cudnn.enabled, benchmark=False, deterministic=True, allow_tf32=False),
        ):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)


def _largest_bits(x: Tensor, keep: int = 1) -> Tensor:
    """The smallest e with |x| < 2^e, for each entry of the first `keep` dimensions, which stay."""
    largest = x.detach().abs().flatten(keep).amax(-1) if x.numel() else x.new_zeros(x.shape[:keep])
    return torch.frexp(largest).exponent.reshape(*x.shape[:keep], *[1] * (x.dim() - keep))


def _power(exponent: Tensor) -> Tensor:
    """2^exponent of whole numbers, by its bits: a library's power function may be off by one."""
    return ((exponent.long() + 1023) << 52).view(torch.float64)


def _rounded(x: Tensor, bits: Tensor) -> Tensor:
    """x as multiples of 2^-bits."""
    return (x * _power(bits)).round_() * _power(-bits)


def _share(own: Tensor, total: Tensor | int) -> Tensor:
    """Bits behind the point for one of two factors below 2^own, which keep as many bits each.

    Of itself alone, so that what becomes of a sample does not depend on the others of its batch.
    """
    return (total // 2 - own).clamp(max=_MOST)


def _with_weights(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Both rounded, so that every sum of products with an output's weights [outputs, ...] is exact."""
    largest = _largest_bits(weight.reshape(-1), 0)
    total = _BITS - (_norm_bits(weight) - largest)  # sums stay below 2^norm times the largest x
    return _rounded(x, _share(_largest_bits(x), total)), _rounded(weight, _share(largest, total))


def _conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    _check(x, weight)
    x, weight = _with_weights(x, weight)
    with torch.backends.cudnn.flags(enabled=False):  # its algorithms are not all plain sums of products
        found = F.conv2d(x, weight, None, stride, padding, dilation, groups)
    return found if bias is None else found + bias[None, :, None, None]


def _conv_transpose2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Tensor:
    _check(x, weight)
    if groups != 1:
        raise TypeError("a transposed convolution in groups has no exact form here.")
    x, weight = _with_weights(x, weight.transpose(0, 1))
    with torch.backends.cudnn.flags(enabled=False):
        found = F.conv_transpose2d(
            x,
            weight.transpose(0, 1),
            None,
            stride,
            padding,
            output_padding,
            groups,
            dilation,
        )
    return found if bias is None else found + bias[None, :, None, None]


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    _check(x, weight)
    x, weight = _with_weights(x, weight)
    found = F.linear(x, weight)
    return found if bias is None else found + bias


def _norm_bits(weight: Tensor) -> Tensor:
    """The smallest e with sum |w| < 2^e for every output; terms are rounded up, so that their order is no matter."""
    rows = weight.abs().flatten(1)
    return torch.frexp((rows * 2.0**20).ceil_().sum(1).amax() * 2.0**-20).exponent


def _matmul(a: Tensor, b: Tensor) -> Tensor:
    _check(a, b)
    total = _BITS - math.ceil(math.log2(max(a.shape[-1], 1)))
    # a matrix without a batch belongs to the weights
    a, b = (_rounded(one, _share(_largest_bits(one, int(one.dim() > 2)), total)) for one in (a, b))
    return torch.matmul(a, b)


def _sum(x: Tensor, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Tensor:
    _check(x)
    named = range(x.dim()) if dim is None else (dim,) if isinstance(dim, int) else dim
    axes = tuple(axis % x.dim() for axis in named)
    number = math.prod(x.shape[axis] for axis in axes)
    if 0 in axes:
        raise TypeError("a sum over samples is not the same for every batch.")
    bits = (_BITS - math.ceil(math.log2(max(number, 1))) - _largest_bits(x)).clamp(max=2 * _MOST)
    return _rounded(x, bits).sum(axes, keepdim=keepdim)


def _mean(x: Tensor, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Tensor:
    axes = (dim,) if isinstance(dim, int) else tuple(dim)
    return _sum(x, axes, keepdim) / math.prod(x.shape[axis] for axis in axes)


def _softmax(x: Tensor, dim: int, _stacklevel: int = 3, dtype: Any = None) -> Tensor:
    powers = _table("exp", x - x.amax(dim, keepdim=True))
    return powers / _sum(powers, dim, keepdim=True)


def _layer_norm(
    x: Tensor, shape: Any, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    axes = tuple(range(x.dim() - len(shape), x.dim()))
    centred = x - _mean(x, axes, keepdim=True)
    found = centred / (_mean(centred * centred, axes, keepdim=True) + eps).sqrt()
    found = found if weight is None else found * weight
    return found if bias is None else found + bias


def _gelu(x: Tensor, approximate: str = "none") -> Tensor:
    if approximate != "none":
        raise TypeError("GELU's approximation by tanh has no table.")
    return x * _table("phi", x)


def _sigmoid(x: Tensor) -> Tensor:
    return _table("sigmoid", x)


def _tanh(x: Tensor) -> Tensor:
    return 2 * _table("sigmoid", 2 * x) - 1


def _exp(x: Tensor) -> Tensor:
    if x.numel() and x.amax() > -_FUNCTIONS["exp"][1]:
        raise TypeError("exp has a table for numbers up to 40 only.")
    powers = _table("exp", -x.abs())
    return torch.where(x > 0, 1 / powers, powers)


def _cos(angle: Tensor) -> Tensor:
    return _table("cos", torch.remainder(angle, 2 * math.pi))


def _sin(angle: Tensor) -> Tensor:
    return _cos(angle - math.pi / 2)


_FUNCTIONS: dict[str, tuple[Callable[[float], float], int, int, int]] = {  # function, from, to, checksum of the table
    "phi": (lambda v: 0.5 * math.erfc(-v * math.sqrt(0.5)), -8, 8, 1729526025),
    "sigmoid": (lambda v: 1 / (1 + math.exp(-v)), -40, 40, 3514539636),
    "exp": (math.exp, -40, 0, 3650613189),
    "cos": (math.cos, 0, 7, 1024513208),
}


@lru_cache
def _entries(name: str, device: str) -> Tensor:
    """Values at low, low + 2^-10, ..., rounded to multiples of 2^-32."""
    function, low, high, checksum = _FUNCTIONS[name]
    places = range((high - low) * 2**_STEPS + 2)
    whole = torch.tensor([round(math.ldexp(function(low + place / 2**_STEPS), 32)) for place in places])
    found = zlib.crc32(whole.numpy().astype("<i8").tobytes())
    if found != checksum:
        raise RuntimeError(
            f"this machine computes {name} otherwise than the machine that this was written on ({found}, not "
            f"{checksum}): files of learned codecs cannot be exchanged with it."
        )
    return (whole.double() * 2.0**-32).to(device)


def _table(name: str, x: Tensor) -> Tensor:
    _check(x)
    _, low, high, _ = _FUNCTIONS[name]
    entries = _entries(name, str(x.device))
    place = (x.clamp(low, high) - low) * 2**_STEPS
    whole = place.floor()
    index = whole.long()
    lower = entries[index]
    return lower + (entries[index + 1] - lower) * (place - whole)


def _check(*tensors: Tensor) -> None:
    if any(tensor.dtype != torch.float64 for tensor in tensors):
        raise TypeError("exact arithmetic works in float64: run a copy made by exact_copy, on double inputs.")


_EXACT: dict[Any, Callable[..., Any]] = {
    torch.conv2d: _conv2d,
    torch.conv_transpose2d: _conv_transpose2d,
    F.linear: _linear,
    torch.matmul: _matmul,
    Tensor.matmul: _matmul,
    Tensor.__matmul__: _matmul,
    torch.sum: _sum,
    Tensor.sum: _sum,
    torch.mean: _mean,
    Tensor.mean: _mean,
    F.softmax: _softmax,
    torch.softmax: _softmax,
    Tensor.softmax: _softmax,
    F.layer_norm: _layer_norm,
    F.gelu: _gelu,
    torch.sigmoid: _sigmoid,
    Tensor.sigmoid: _sigmoid,
    torch.tanh: _tanh,
    Tensor.tanh: _tanh,
    Tensor.exp: _exp,
    Tensor.cos: _cos,
    Tensor.sin: _sin,
}
_HARMLESS = frozenset(
    # single roundings, and what only moves numbers
    "__get__ __set__ add sub mul div neg abs sqrt square round floor ceil clamp maximum minimum where masked_fill "
    "__add__ __radd__ __iadd__ __sub__ __rsub__ __isub__ __mul__ __rmul__ __imul__ __truediv__ __div__ "
    "__rtruediv__ __rdiv__ __neg__ __gt__ __ge__ __lt__ __le__ __eq__ __ne__ __and__ __or__ __invert__ "
    "__getitem__ __setitem__ __len__ __bool__ __float__ __int__ gt ge lt le eq ne logical_not remainder relu "
    "leaky_relu amax amin max min reshape view permute transpose flatten unflatten contiguous chunk split cat "
    "concat stack unbind squeeze unsqueeze expand expand_as repeat repeat_interleave roll flip clone detach to "
    "double float long bool type type_as size dim numel shape is_floating_point unfold pad pixel_shuffle "
    "pixel_unshuffle movedim swapaxes swapdims new_zeros new_ones new_empty new_full zeros_like ones_like "
    "empty_like full_like gather index_select scatter masked_select nonzero tolist item _set_grad_enabled arange "
    "zeros ones full empty tensor as_tensor nelement t any all dtype device requires_grad".split()
)
