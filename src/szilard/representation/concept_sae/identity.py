"""Why hidden states should be linear in concepts: an exact identity of log p(y|x), and what it leaves over.

Liu et al., "I Predict Therefore I Am", ICLR 2026, arXiv:2503.08980. Concepts c have l joint values; context x and next
token y are independent given c. Bayes' rule, averaged over p(c|y), for every such model:

    log p(y|x) = sum_c p(c|y) log p(c|x) + b_y - h_y(x)
    b_y = sum_c p(c|y) log p(y|c),   h_y(x) = sum_c p(c|y) log p(c|x,y)

With log p(y|x) = f_x^T f_y + const, differences to a token y_0, Lhat = columns f_y - f_{y_0}, L = rows
p(c|y) - p(c|y_0):

    f_x = A log p(c|x) + b - (Lhat^T)^+ h(x),   A = (Lhat^T)^+ L

Rows of L sum to 0, so that A has a direction that it does not see, and where tokens are more than dimensions ^+ is a
pseudo-inverse. f_x is affine in log p(c|x) as far as h does not depend on x, for which a small
epsilon = 1 - max_c p(c|x,y) alone is not enough.

Of a joint value c = (c_1..c_m), B_k [l, v] lifts the log-posterior of concept k: 1 where c has c_k = v. Where two
contexts differ in concept k only, so that p(c_others|c_k, x) is the same,

    f_x(x_1) - f_x(x_0) = A~_k (log p(c_k|x_1) - log p(c_k|x_0)) - (Lhat^T)^+ (h(x_1) - h(x_0)),   A~_k = A B_k

and adding A~_k delta to f_x is to add delta to log p(c_k|x), up to the sum of the posterior.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from szilard.options import check_number


@dataclass(frozen=True)
class PosteriorIdentity:
    """The terms; nats, float64.

    Attributes:
        log_next: log p(y|x) [X, Y].
        mixture: sum_c p(c|y) log p(c|x) [X, Y].
        bias: b_y [Y].
        remainder: h_y(x) [X, Y].
        log_posterior: log p(c|x) [X, l].
        concepts_of_token: p(c|y) [Y, l].
        epsilon: 1 - max_c p(c|x,y) [X, Y].
    """

    log_next: Tensor
    mixture: Tensor
    bias: Tensor
    remainder: Tensor
    log_posterior: Tensor
    concepts_of_token: Tensor
    epsilon: Tensor

    @property
    def error(self) -> float:
        """Largest difference of the two sides: rounding."""
        return float((self.log_next - (self.mixture + self.bias - self.remainder)).abs().max())

    @property
    def linear_share(self) -> float:
        """R^2 of log p(y|x), centred over y, on log p(c|x), over all contexts alike.

        Needs more contexts than l + 1 to mean anything. It does not fall steadily with epsilon: it is high at both
        ends, and low between.
        """
        target = self.log_next - self.log_next.mean(1, keepdim=True)
        target = target - target.mean(0)
        inputs = torch.cat([self.log_posterior, torch.ones_like(self.log_posterior[:, :1])], dim=1)
        left = target - inputs @ (torch.linalg.pinv(inputs) @ target)
        total = target.square().sum()
        return float(1 - left.square().sum() / total) if float(total) > 1e-24 else 0.0


def posterior_identity(p_x_given_c: Any, p_y_given_c: Any, p_c: Any) -> PosteriorIdentity:
    """All terms of the identity for a model given by its tables.

    Args:
        p_x_given_c: [l, X], rows sum to 1, all above 0.
        p_y_given_c: [l, Y], rows sum to 1; zeros are allowed, a token that never comes is not.
        p_c: [l], sums to 1, all above 0.

    Raises:
        ValueError: shapes that do not match, or numbers that are no such probabilities.
    """
    prior = _distribution("p_c", p_c, 1)
    context = _distribution("p_x_given_c", p_x_given_c, 2)
    token = _distribution("p_y_given_c", p_y_given_c, 2)
    if not len(prior) == len(context) == len(token):
        raise ValueError(
            f"p_c, p_x_given_c and p_y_given_c must have one row per concept value, not {len(prior)}, {len(context)} "
            f"and {len(token)}."
        )
    if bool((prior == 0).any()) or bool((context == 0).any()):
        raise ValueError("p_c and p_x_given_c must be above 0 everywhere: log p(c|x) would be infinite.")
    if bool((token.sum(0) == 0).any()):
        raise ValueError(f"token {int(token.sum(0).argmin())} has no probability under any concept: leave it out.")
    joint_x = (prior[:, None] * context).T  # [X, l]
    posterior = joint_x / joint_x.sum(1, keepdim=True)
    joint_y = (prior[:, None] * token).T
    of_token = joint_y / joint_y.sum(1, keepdim=True)  # [Y, l]
    following = posterior @ token  # p(y|x) [X, Y]
    if bool((following == 0).any()) or bool((posterior == 0).any()):
        raise ValueError("a context's or token's probability is too small for float64: make the tables less extreme.")
    both = posterior[:, None] * token.T / following[..., None]  # p(c|x,y) [X, Y, l]
    return PosteriorIdentity(
        log_next=following.log(),
        mixture=posterior.log() @ of_token.T,
        bias=torch.xlogy(of_token, token.T).sum(1),
        remainder=torch.xlogy(of_token, both).sum(-1),
        log_posterior=posterior.log(),
        concepts_of_token=of_token,
        epsilon=1 - both.amax(-1),
    )


def affine_map(token_vectors: Any, identity: PosteriorIdentity, reference: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """A [d, l], b [d] and the remainder (Lhat^T)^+ h(x) [X, d] of f_x = A log p(c|x) + b - remainder.

    Args:
        token_vectors: f_y [Y, d].
        identity: of the model.
        reference: y_0.

    Raises:
        ValueError: another number of tokens, no such reference, or numbers that are none.
    """
    vectors = torch.as_tensor(token_vectors).double()
    tokens = len(identity.bias)
    if vectors.dim() != 2 or len(vectors) != tokens or not bool(torch.isfinite(vectors).all()):
        raise ValueError(f"token_vectors must be finite [{tokens}, d], not {list(vectors.shape)}.")
    check_number("reference", reference, low=0, high=tokens - 1, integer=True)
    rest = torch.arange(tokens) != reference
    inverse = torch.linalg.pinv(vectors[rest] - vectors[reference])  # (Lhat^T)^+ [d, Y - 1]
    concepts = identity.concepts_of_token[rest] - identity.concepts_of_token[reference]
    bias = identity.bias[rest] - identity.bias[reference]
    remainder = identity.remainder[:, rest] - identity.remainder[:, reference : reference + 1]
    return inverse @ concepts, inverse @ bias, remainder @ inverse.T


def concept_map(joint_map: Any, values: Any, concept: int) -> Tensor:
    """A~_k = A B_k [d, v]: how f_x moves with the log-posterior of each value of one concept; float64.

    Columns sum to 0, as those of A do: for a binary concept A~_k[:, 1] is the step that raises its log-odds by 1 nat.

    Args:
        joint_map: A [d, l], as `affine_map` gives it.
        values: of the concepts in each joint value [l, m], whole numbers from 0, as `ConceptWorld.values`.
        concept: k.

    Raises:
        TypeError: values that are no whole numbers.
        ValueError: shapes that do not match, no such concept, or a value that no joint value has.
    """
    a, table = torch.as_tensor(joint_map).double(), torch.as_tensor(values)
    if table.is_floating_point() or table.is_complex():
        raise TypeError(f"values must be whole numbers from 0, not {table.dtype}.")
    if a.dim() != 2 or table.dim() != 2 or a.shape[1] != len(table) or not table.numel():
        raise ValueError(
            f"joint_map [d, l] and values [l, m] must be of the same l joint values, not {list(a.shape)} and "
            f"{list(table.shape)}."
        )
    check_number("concept", concept, low=0, high=table.shape[1] - 1, integer=True)
    own = table[:, concept].long()
    if own.unique().tolist() != list(range(int(own.max()) + 1)):
        raise ValueError(f"concept {concept} must have the values 0, 1, ..., not {own.unique().tolist()}.")
    lift = torch.nn.functional.one_hot(own).to(a)  # B_k [l, v]
    return a @ lift


def _distribution(name: str, given: Any, dimensions: int) -> Tensor:
    found = torch.as_tensor(given).double()
    if found.dim() != dimensions or not found.numel():
        raise ValueError(f"{name} must have {dimensions} dimensions, not shape {list(found.shape)}.")
    if not bool(torch.isfinite(found).all()) or bool((found < 0).any()):
        raise ValueError(f"{name} must be probabilities: finite, and not below 0.")
    if float((found.sum(-1) - 1).abs().max()) > 1e-6:
        raise ValueError(f"{name} must sum to 1 over its last dimension.")
    return found / found.sum(-1, keepdim=True)
