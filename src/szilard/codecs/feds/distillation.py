"""FEDS' terms: features of equal resolution, and the informative channels of the latent.

    L_feat = 1/L sum_l mean((R_l F_S^l - F_T^l)^2) / mean((F_T^l)^2)              R_l: 1x1 convolutions
    L_ent  = sum over A of w_c d_c
      mse    d_c = mean (R y_S - y_T)_c^2 / (var of y_T,c + 1/12)
      kl     d_c = mean KL(N(m_T, s_T) || N(m_S, s_S)) = log(s_S/s_T) + (s_T^2 + (m_T - m_S)^2) / (2 s_S^2) - 1/2

The paper's equations are not public; these satisfy what its abstract says (inferred). The 1/12, the variance of
rounding, keeps channels that hardly move from being divided by nothing (ours). Nothing flows back into the teacher.
All terms take (student, teacher) as `Signals`, and are scalars. Adapters start as the identity where widths are equal,
so that a copy of the teacher has nothing to learn; they exist only while a student is trained.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from szilard.codecs.bounds import LowerBound
from szilard.codecs.entropy_models import SCALE_BOUND
from szilard.codecs.feds.signals import Signals, Tap
from szilard.codecs.layers import conv1x1
from szilard.options import check_choice

DISTANCES = ("mse", "kl")
MATCHES = ("auto", "project", "identity")
ROUNDING = 1 / 12


def adapter(inner: int, outer: int, rows: Tensor | None = None) -> nn.Conv2d:
    """A 1x1 convolution; the identity (or those rows of it) at first where it could be.

    Args:
        inner: channels of the student.
        outer: channels that are wanted.
        rows: which of the teacher's channels these are, of `inner` ones.
    """
    made = conv1x1(inner, outer)
    if rows is not None or inner == outer:
        with torch.no_grad():
            eye = torch.eye(inner)
            made.weight.copy_((eye if rows is None else eye[rows])[:, :, None, None])
            nn.init.zeros_(made.bias)  # type: ignore[arg-type]
    return made


class FeatureMatch(nn.Module):
    """L_feat, every layer divided by the teacher's energy."""

    def __init__(self, student: Sequence[Tap], teacher: Sequence[Tap]) -> None:
        super().__init__()
        pairs = zip(student, teacher, strict=True)
        self.adapters = nn.ModuleList([adapter(own.channels, wanted.channels) for own, wanted in pairs])

    def forward(self, student: Signals, teacher: Signals) -> Tensor:
        losses = [
            F.mse_loss(fit(own), wanted) / wanted.square().mean().clamp(min=1e-12)
            for fit, own, wanted in zip(self.adapters, student.taps, teacher.taps, strict=True)
        ]
        return torch.stack(losses).mean()


class ChannelMatch(nn.Module):
    """L_ent over the informative channels.

    Args:
        indices: A [K], channels of the teacher.
        weights: w [M_T].
        student, teacher: M_S and M_T.
        distance: "mse" or "kl".
        match: "project": a learned 1x1 convolution maps y_S to the channels of A. "identity": a student's channel is
            the teacher's of the same number, or with fewer channels the j-th one is the j-th of A. "auto": identity
            where M_S = M_T, else project.

    Raises:
        ValueError: kl with a projection, or more channels in A than the student has.
    """

    indices: Tensor
    weights: Tensor

    def __init__(
        self,
        indices: Tensor,
        weights: Tensor,
        student: int,
        teacher: int,
        *,
        distance: str = "mse",
        match: str = "auto",
    ) -> None:
        super().__init__()
        check_match(student, teacher, distance, match)
        check_choice("distance", distance, DISTANCES)
        self.distance = distance
        own = indices if student == teacher else torch.arange(len(indices))
        if not projects(student, teacher, match) and len(indices) > student:
            raise ValueError(f"match='identity' needs as many channels as are chosen: {len(indices)}, not {student}.")
        self.register_buffer("indices", indices)
        self.register_buffer("weights", weights[indices].float())
        self.register_buffer("own", own)
        same = student == teacher
        self.adapter = (
            adapter(student, len(indices), indices if same else None) if projects(student, teacher, match) else None
        )
        self.bound = LowerBound(SCALE_BOUND)

    def forward(self, student: Signals, teacher: Signals) -> Tensor:
        if self.distance == "kl":
            values = [one.found[name] for one in (teacher, student) for name in ("means", "scales")]
            m_t, s_t = (value[:, self.indices] for value in values[:2])
            m_s, s_s = (value[:, self.own] for value in values[2:])
            distance = gaussian_kl(m_t, self.bound(s_t), m_s, self.bound(s_s)).mean(dim=(0, 2, 3))
        else:
            wanted = teacher.found["y"][:, self.indices]
            y = student.found["y"]
            mine = y[:, self.own] if self.adapter is None else self.adapter(y)
            variance = wanted.var(dim=(0, 2, 3), correction=0)
            distance = (mine - wanted).square().mean(dim=(0, 2, 3)) / (variance + ROUNDING)
        return (self.weights * distance).sum()


def gaussian_kl(m_t: Tensor, s_t: Tensor, m_s: Tensor, s_s: Tensor) -> Tensor:
    """KL(N(m_t, s_t) || N(m_s, s_s)) of every element, nats; the teacher first."""
    return (s_s / s_t).log() + (s_t**2 + (m_t - m_s) ** 2) / (2 * s_s**2) - 0.5


def projects(student: int, teacher: int, match: str) -> bool:
    """Whether channels are matched by a learned projection."""
    return match == "project" or (match == "auto" and student != teacher)


def check_match(student: int, teacher: int, distance: str, match: str) -> None:
    """Refuse a divergence between channels that do not correspond.

    Raises:
        ValueError: so it is.
    """
    check_choice("match", match, MATCHES)
    if distance == "kl" and projects(student, teacher, match):
        raise ValueError(
            f"distance='kl' compares channels one by one, but the student has {student} and the teacher {teacher}: "
            "give match='identity', or distance='mse'."
        )


class LatentMatch(nn.Module):
    """mean (y^_S - y^_T)^2: plain distillation of the latent; through a 1x1 convolution where widths differ (ours)."""

    def __init__(self, student: int, teacher: int) -> None:
        super().__init__()
        self.adapter = nn.Identity() if student == teacher else adapter(student, teacher)

    def forward(self, student: Signals, teacher: Signals) -> Tensor:
        return F.mse_loss(self.adapter(student.found["y_hat"]), teacher.found["y_hat"])


class OutputMatch(nn.Module):
    """factor * mean (x^_S - x^_T)^2."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, student: Signals, teacher: Signals) -> Tensor:
        return self.factor * F.mse_loss(student.found["x_hat"], teacher.found["x_hat"])
