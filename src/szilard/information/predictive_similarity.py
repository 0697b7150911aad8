"""How alike contexts are in what they predict, and whether hidden states lie by it.

Zhang, "A Markov Categorical Framework for Language Modeling", arXiv:2507.19247, section 7. Kernels on contexts x with
next-token distributions p_x:

    bhattacharyya   sum sqrt(p p')                  expected_likelihood   <p, p'>
    hellinger       exp(-beta 2 (1 - BC))           jensen_shannon        exp(-beta JS(p, p'))
    prototype       <g_x, g_x'>,  g_x = sum_w p_x(w) g(w)

Alignment (theorem 7.6): with whitened h~, J = E[<h~, h~'> K(x, x')], at most the sum of the d largest eigenvalues of
the centred operator; rho = J / that sum, in [0, 1]. For prototypes it is the variance-weighted R^2 of the linear
regression of g_x on h_x, which can be measured on held-out contexts; with as many inputs as contexts it is 1 for
anything.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from szilard.information.arrays import as_floats, as_numbers
from szilard.information.categorical_entropy import checked_probabilities
from szilard.options import check_bool, check_choice, check_number

_RIDGES = (1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0)
KERNELS = ("bhattacharyya", "hellinger", "expected_likelihood", "jensen_shannon", "prototype")


def predictive_similarity(
    p: Any, kernel: str = "bhattacharyya", *, beta: float = 1.0, prototypes: Any = None, chunk: int = 64
) -> Tensor:
    """The Gram matrix of a kernel.

    Args:
        p: [n, V] distributions.
        kernel: one of `KERNELS`.
        beta: of the kernels that are exponentials.
        prototypes: g, [V, d], for the kernel "prototype"; rows are taken as they are.
        chunk: rows at once for "jensen_shannon".

    Returns:
        [n, n], symmetric.

    Raises:
        ValueError: no distributions, an unknown kernel, or prototypes where they are not wanted, or missing.
    """
    check_choice("kernel", kernel, KERNELS)
    check_number("beta", beta, low=1e-12)
    check_number("chunk", chunk, low=1, integer=True)
    p = checked_probabilities(p)
    if p.dim() != 2:
        raise ValueError(f"distributions must be [n, V], not {list(p.shape)}.")
    if (kernel == "prototype") != (prototypes is not None):
        raise ValueError("prototypes [V, d] belong to the kernel 'prototype', and to no other.")
    if kernel == "expected_likelihood":
        return p @ p.T
    if prototypes is not None:
        g = as_numbers("prototypes", prototypes)
        if g.dim() != 2 or len(g) != p.shape[1]:
            raise ValueError(f"prototypes must be [{p.shape[1]}, d], not {list(g.shape)}.")
        mean = p @ g.to(p)
        return mean @ mean.T
    if kernel == "jensen_shannon":
        return (-beta * _jensen_shannon(p, chunk)).exp()
    root = p.sqrt()
    overlap = (root @ root.T).clamp(max=1.0)
    return overlap if kernel == "bhattacharyya" else (-2 * beta * (1 - overlap)).exp()


def spectral_alignment(
    hidden: Any,
    similarity: Any,
    *,
    ridge: float | None = None,
    holdout: bool = True,
    prototypes: bool = False,
    seed: int = 0,
) -> float:
    """rho: how much of what tells contexts apart hidden states hold linearly.

    Args:
        hidden: h, [n, d].
        similarity: the Gram matrix K [n, n]; or, with `prototypes`, the mean prototypes g_x [n, m].
        ridge: of the whitening, in mean variances of h (1e-5 has been proposed (inferred)); None: the best of a few by
            leaving one context out, since one number is too small for few contexts and too large for many.
        holdout: fit on one half of the contexts and score on the other, both ways; else in the sample, where d near n
            makes it 1 for anything.
        prototypes: what `similarity` is. A Gram matrix is turned into vectors by its eigenvectors.
        seed: of the halves.

    Returns:
        1: everything; 0: nothing; below 0 where the held-out half is told worse than by its mean.

    Raises:
        ValueError: shapes that do not match, too few contexts, or contexts that all predict alike.
    """
    if ridge is not None:
        check_number("ridge", ridge, low=0)
    check_bool("holdout", holdout)
    check_bool("prototypes", prototypes)
    h, k = as_floats("hidden", hidden), as_floats("similarity", similarity)
    if h.dim() != 2 or k.dim() != 2 or len(h) != len(k) or len(h) < 8 or not h.numel() or not k.numel():
        raise ValueError(
            "hidden [n, d] and similarity [n, n or m] must be of the same eight contexts or more, not "
            f"{list(h.shape)} and {list(k.shape)}."
        )
    g = k if prototypes else _vectors(_square(k))
    if not holdout:
        return _explained(h, g, h, g, ridge)
    order = torch.randperm(len(h), generator=torch.Generator().manual_seed(seed)).to(h.device)
    one, other = order[: len(h) // 2], order[len(h) // 2 :]
    ways = ((one, other), (other, one))
    return sum(_explained(h[learned], g[learned], h[new], g[new], ridge) for learned, new in ways) / 2


def linear_cka(hidden: Any, similarity: Any) -> float:
    """Centred kernel alignment of h h^T and K, between 0 and 1.

    Raises:
        ValueError: shapes that do not match, or contexts that are all alike.
    """
    h, k = _pair(hidden, similarity)
    apart = h - h.mean(0)
    one, other = apart @ apart.T, _centred(k)
    size = one.norm() * other.norm()
    if not float(size) > 0:
        raise ValueError("all contexts are alike, in their states or in what they predict: nothing to align.")
    return float((one * other).sum() / size)


def subspace_overlap(hidden: Any, similarity: Any, components: int) -> float:
    """Mean squared canonical correlation of K's leading centred eigenvectors with the span of h (in the sample).

    Raises:
        ValueError: shapes that do not match, or more components than contexts.
    """
    h, k = _pair(hidden, similarity)
    check_number("components", components, low=1, high=len(h), integer=True)
    basis, sizes, _ = torch.linalg.svd(h - h.mean(0), full_matrices=False)
    basis = basis[:, sizes > sizes[0] * 1e-9]
    leading = torch.linalg.eigh(_centred(k))[1].flip(1)[:, :components]
    return float((basis.T @ leading).square().sum() / components)


def operator_spectrum(similarity: Any, *, center: bool = True) -> Tensor:
    """Eigenvalues of K / n, by falling size, float64 [n].

    Raises:
        ValueError: no square matrix.
    """
    check_bool("center", center)
    k = _square(as_floats("similarity", similarity))
    return torch.linalg.eigvalsh((_centred(k) if center else k) / len(k)).flip(0)


def dirichlet_energy(similarity: Any, projection: Any) -> Tensor:
    """1/2 mean K (phi - phi')^2 over mean(K) Var(phi): 1 for what has nothing to do with K, below where alike is near.

    Args:
        similarity: K, [n, n].
        projection: phi, [n] or [n, k]: values of the contexts.

    Returns:
        float64 scalar or [k].

    Raises:
        ValueError: shapes that do not match, a projection that does not vary, or a kernel that is 0 on average.
    """
    k, phi = _square(as_floats("similarity", similarity)), as_floats("projection", projection)
    if not phi.dim() or len(phi) != len(k):
        raise ValueError(
            f"similarity must be [n, n] and projection [n, ..], not {list(k.shape)} and {list(phi.shape)}."
        )
    columns = phi.reshape(len(k), -1)
    variance = columns.var(0, correction=0)
    if bool((variance <= 1e-30).any()):
        raise ValueError("the projection does not vary over the contexts: it has no energy to compare.")
    if not float(k.mean()) > 1e-12 * float(k.abs().max()):
        raise ValueError("the kernel must be above 0 on average: without that the energy has no unit.")
    degree = k.sum(1)
    energy = ((degree.unsqueeze(1) * columns.square()).sum(0) - (columns * (k @ columns)).sum(0)) / len(k) ** 2
    found = energy / (k.mean() * variance)
    return found.reshape(phi.shape[1:])


def hellinger_distance(p: Any, q: Any) -> Tensor:
    """sqrt(2 (1 - BC)) of distributions, [...]; its square is at most KL(p || q)."""
    one, other = checked_probabilities(p), checked_probabilities(q)
    return (2 * (1 - (one.sqrt() * other.sqrt()).sum(-1).clamp(max=1))).sqrt()


def total_variation(p: Any, q: Any) -> Tensor:
    """Half the L1 distance of distributions, [...]; its square is at most KL(p || q) / 2."""
    return 0.5 * (checked_probabilities(p) - checked_probabilities(q)).abs().sum(-1)


def _pair(hidden: Any, similarity: Any) -> tuple[Tensor, Tensor]:
    h, k = as_floats("hidden", hidden), _square(as_floats("similarity", similarity))
    if h.dim() != 2 or len(h) != len(k) or not h.numel():
        raise ValueError(f"hidden must be [n, d] and similarity [n, n], not {list(h.shape)} and {list(k.shape)}.")
    return h, k


def _square(k: Tensor) -> Tensor:
    if k.dim() != 2 or k.shape[0] != k.shape[1] or not k.numel():
        raise ValueError(f"similarity must be a Gram matrix [n, n], not {list(k.shape)}.")
    if not torch.allclose(k, k.T, rtol=0, atol=1e-4 * float(k.abs().max())):
        raise ValueError("similarity must be symmetric, as a Gram matrix is.")
    return k


def _vectors(k: Tensor) -> Tensor:
    """Rows whose inner products are the centred kernel's; negative eigenvalues are left out."""
    values, vectors = torch.linalg.eigh(_centred(k))
    kept = values > values[-1].clamp(min=0) * 1e-10
    return vectors[:, kept] * values[kept].sqrt()


def _centred(k: Tensor) -> Tensor:
    return k - k.mean(0, keepdim=True) - k.mean(1, keepdim=True) + k.mean()


def _explained(h: Tensor, g: Tensor, h_new: Tensor, g_new: Tensor, ridge: float | None) -> float:
    """Share of the variance of new g that ridge regression on h explains, of what d directions could at most."""
    mean, target = h.mean(0), g.mean(0)
    left, sizes, right = torch.linalg.svd(h - mean, full_matrices=False)
    kept = sizes > sizes[0].clamp(min=1e-300) * 1e-12
    left, sizes, right = left[:, kept], sizes[kept], right[kept]
    turned = left.T @ (g - target)
    unit = sizes.square().sum() / h.shape[1]
    if ridge is None:
        ridge = min(_RIDGES, key=lambda one: _left_out(left, sizes, turned, g - target, float(one * unit)))
    weights = right.T @ (turned * (sizes / (sizes.square() + ridge * unit)).unsqueeze(1))
    fresh = g_new - g_new.mean(0)
    best = torch.linalg.svdvals(fresh).square()[: h.shape[1]].sum()
    if not float(best) > 1e-30:
        raise ValueError("all contexts predict alike: there is nothing to align with.")
    wrong = (g_new - target - (h_new - mean) @ weights).square().sum()
    return float((fresh.square().sum() - wrong) / best)


def _left_out(left: Tensor, sizes: Tensor, turned: Tensor, wanted: Tensor, penalty: float) -> float:
    """The squared error on each context of the regression without it, by the hat matrix."""
    shrunk = sizes.square() / (sizes.square() + penalty)
    leverage = (left.square() * shrunk).sum(1) + 1 / len(left)
    wrong = (wanted - left @ (turned * shrunk.unsqueeze(1))) / (1 - leverage).clamp(min=1e-6).unsqueeze(1)
    return float(wrong.square().sum())


def _jensen_shannon(p: Tensor, chunk: int) -> Tensor:
    own = torch.xlogy(p, p).sum(-1)
    found = p.new_empty(len(p), len(p))
    for start in range(0, len(p), chunk):
        middle = (p[start : start + chunk, None] + p) / 2
        mixed = torch.xlogy(middle, middle).sum(-1)
        found[start : start + chunk] = (own[start : start + chunk, None] + own) / 2 - mixed
    return found.clamp(0, math.log(2))
