"""MLICv2: predict every slice of the latent from many references, code what is left.

Jiang, Zhai, Yang, Gao, Wang, "MLICv2: Enhanced Multi-Reference Entropy Modeling for Learned Image Compression",
arXiv:2504.19119. The preset "mlicpp" is the official MLIC++ (arXiv:2307.15421), whose state dicts it reads; what
MLICv2 adds is reconstructed from its abstract and third-party notes of its sections (inferred), and no weights of it
are public.

    y = g_a(x) [B, M, H/16, W/16];  z = h_a(y) [B, N, H/64, W/64];  h = h_s(z^) [B, 2M, .] = (hyper scales, hyper means)

y is cut into slices of C = M/S channels; each is coded in two passes, anchors (row + column odd) first:

    anchor      (scales, means) = EP([inter(P), channel(P), h])                       P: all earlier slices
    non-anchor  (scales, means) = EP([local(A), intra(previous, A), inter(P), channel(P), h])   A: decoded anchors
    y^ = round(y - mean) + mean + LRP([hyper means, P, .])

MLICv2 gives slice 0 an intra-slice context whose guide is the hyperprior, reweights global contexts by channel, rotates
queries and keys by position instead of a bias, mixes tokens in the transforms, and skips elements that are surely 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from szilard.codecs.checkerboard import anchors, only
from szilard.codecs.contexts import (
    ChannelContext,
    ChannelReweighting,
    EntropyParameters,
    InterSliceContext,
    IntraSliceContext,
    LatentResidualPrediction,
    LocalContext,
)
from szilard.codecs.layers import conv1x1
from szilard.codecs.learned_codec import LearnedCodec
from szilard.codecs.quantizers import Predicted, Quantizer
from szilard.codecs.selective import SCALE_THRESHOLD, THRESHOLD, SelectionPredictor
from szilard.codecs.transforms import Analysis, HyperAnalysis, HyperSynthesis, Synthesis
from szilard.options import check_bool, check_choice, check_number

TRANSFORMS = ("stm", "residual")
GUIDES = ("off", "nonanchor", "anchor+nonanchor")
SELECTIONS = ("off", "scale", "learned")


@dataclass(frozen=True)
class MLICv2Config:
    """Sizes and parts. Every part can be left out, to measure what it is worth.

    Attributes:
        N: channels of the transforms and of z.
        M: channels of y.
        slices: S; divides M.
        window: side of the local attention's window, odd.
        transform: "stm" (simple token mixing) or "residual" (MLIC++).
        channel, local, inter, intra: which contexts there are.
        hgcp: the hyperprior as the guide of slice 0's intra-slice context: "off" (or False), "nonanchor" (default, or
            True), or "anchor+nonanchor": in both directions (inferred; the anchors' side from the hyperprior alone).
        reweighting: of the global contexts' channels.
        rope: rotated positions instead of learned biases.
        lrp: latent residual prediction.
        gsc: guided selective compression: "off", "scale" (by the predicted scale alone) or "learned".
        gsc_threshold: of gsc="learned": elements are coded whose predicted probability reaches it. What the predictor
            learns is |y - mean| >= 0.3, whatever this is.
        hidden: widths of the entropy networks, as a share of the paper's.
        blocks: residual blocks per stage of the transforms (a teacher may have more).
        attention: SwinV2 attention after the second stage and at the end of the analysis, and where the synthesis
            mirrors them (FEDS' teacher).
    """

    N: int = 192
    M: int = 320
    slices: int = 10
    window: int = 5
    transform: str = "stm"
    channel: bool = True
    local: bool = True
    inter: bool = True
    intra: bool = True
    hgcp: str | bool = "nonanchor"
    reweighting: bool = True
    rope: bool = True
    lrp: bool = True
    gsc: str = "off"
    gsc_threshold: float = THRESHOLD
    hidden: float = 1.0
    blocks: int = 1
    attention: bool = False

    def __post_init__(self) -> None:
        for name in ("N", "M", "slices", "window", "blocks"):
            check_number(name, getattr(self, name), low=1, integer=True)
        for name in ("channel", "local", "inter", "intra", "reweighting", "rope", "lrp", "attention"):
            check_bool(name, getattr(self, name))
        check_choice("transform", self.transform, TRANSFORMS)
        if isinstance(self.hgcp, bool):
            object.__setattr__(self, "hgcp", "nonanchor" if self.hgcp else "off")
        check_choice("hgcp", self.hgcp, GUIDES)
        check_choice("gsc", self.gsc, SELECTIONS)
        check_number("gsc_threshold", self.gsc_threshold, low=0, high=1)
        check_number("hidden", self.hidden, low=0.01)
        if self.M % self.slices or (self.M // self.slices) % 4:
            raise ValueError(f"M={self.M} must be slices={self.slices} times a multiple of 4.")
        if self.M % 2 or self.window % 2 == 0:
            raise ValueError(f"M={self.M} must be even, and window={self.window} odd.")

    @property
    def width(self) -> int:
        """C, channels of a slice."""
        return self.M // self.slices

    def sized(self, official: int) -> int:
        """A width of the official entropy networks, scaled by `hidden`, a multiple of 8."""
        return official if self.hidden == 1 else max(8, round(official * self.hidden / 8) * 8)


_PLAIN = MLICv2Config(transform="residual", hgcp="off", reweighting=False, rope=False)
PRESETS: Mapping[str, MLICv2Config] = {
    "mlicv2": MLICv2Config(),
    "mlicpp": _PLAIN,
    "mlicv2-small": MLICv2Config(N=48, M=80, slices=5, hidden=0.25),
    "mlicpp-small": replace(_PLAIN, N=48, M=80, slices=5, hidden=0.25),
    "mlicv2-tiny": MLICv2Config(N=16, M=24, slices=3, hidden=0.1, window=3),
}


def preset(name: str, **changes: Any) -> MLICv2Config:
    """A named configuration with changes.

    Raises:
        ValueError: no such preset, or wrong values.
    """
    check_choice("preset", name, tuple(PRESETS))
    return replace(PRESETS[name], **changes)


class MLICv2(LearnedCodec):
    """The codec.

    Args:
        config: sizes and parts, or the fields of one (from a saved folder), or a preset's name.
    """

    name: ClassVar[str] = "mlicv2"
    entropy_parts: ClassVar[tuple[str, ...]] = (
        "h_s",
        "local_context",
        "channel_context",
        "global_inter_context",
        "global_intra_context",
        "entropy_parameters_anchor",
        "entropy_parameters_nonanchor",
        "lrp_anchor",
        "lrp_nonanchor",
        "guide",
        "guide_anchor",
        "reweight_guide",
        "reweight_inter",
        "reweight_intra",
        "selection",
    )

    def __init__(self, config: MLICv2Config | Mapping[str, Any] | str = MLICv2Config()) -> None:
        own = config if isinstance(config, MLICv2Config) else None
        if own is None:
            own = preset(config) if isinstance(config, str) else MLICv2Config(**dict(config))  # type: ignore[arg-type]
        super().__init__(own.M, own.N)
        self.settings = own
        channels, slices, width = own.M, own.slices, own.width
        self.g_a, self.g_s = Analysis(own), Synthesis(own)
        self.h_a, self.h_s = HyperAnalysis(channels, own.N), HyperSynthesis(channels, own.N)

        def each(build: Any, first: bool = True) -> nn.ModuleList:
            return nn.ModuleList([build(place) if place or first else None for place in range(slices)])  # type: ignore[misc]

        def none(_: int) -> None:
            return None

        def local(_: int) -> nn.Module:
            return LocalContext(width, own.window, rope=own.rope)

        def channel(place: int) -> nn.Module:
            return ChannelContext(width * place, width, (own.sized(192), own.sized(128)))

        def inter(place: int) -> nn.Module:
            # MLIC++: a head for every 32 channels, which are its slices; here one for every slice, whatever its width
            return InterSliceContext(width * place, width, heads=place, rope=own.rope)

        def intra(_: int) -> nn.Module:
            return IntraSliceContext(width, rope=own.rope)

        def residual(place: int) -> nn.Module:
            return LatentResidualPrediction(channels + width * (place + 1), width, (own.sized(224), own.sized(128)))

        def reweight(_: int) -> nn.Module:
            return ChannelReweighting(2 * width)

        guided = own.intra and own.hgcp != "off"
        both = guided and own.hgcp == "anchor+nonanchor"
        self.local_context = each(local if own.local else none)
        self.channel_context = each(channel if own.channel else none, first=False)
        self.global_inter_context = each(inter if own.inter else none, first=False)
        self.global_intra_context = each(intra if own.intra else none, first=guided)
        self.guide = conv1x1(2 * channels, width) if guided else nn.Identity()
        self.guide_anchor = IntraSliceContext(width, rope=own.rope) if both else nn.Identity()
        self.reweight_guide = reweight(0) if both and own.reweighting else nn.Identity()
        self.reweight_inter = each(reweight if own.reweighting and own.inter else none, first=False)
        self.reweight_intra = each(reweight if own.reweighting and own.intra else none, first=guided)
        ahead = 2 * width * (2 * own.channel + own.inter)  # of the earlier slices
        beside = 2 * width * own.local

        def parameters(place: int, anchor: bool) -> EntropyParameters:
            inner = 2 * channels + (ahead if place else 2 * width * both * anchor)
            inner += 0 if anchor else beside + 2 * width * (own.intra and bool(place or guided))
            return EntropyParameters(inner, width, (own.sized(320), own.sized(256), own.sized(128)))

        self.entropy_parameters_anchor = each(lambda place: parameters(place, True))
        self.entropy_parameters_nonanchor = each(lambda place: parameters(place, False))
        self.lrp_anchor, self.lrp_nonanchor = each(residual if own.lrp else none), each(residual if own.lrp else none)

        def chooser(place: int) -> nn.Module:
            return SelectionPredictor(width, 2 * channels + width * place, own.sized(64))

        self.selection = each(chooser if own.gsc == "learned" else none)

    def walk(self, hyper: Tensor, quantizer: Quantizer) -> Predicted:
        """See `LearnedCodec.walk`; hyper [B, 2M, h, w]."""
        height, width = hyper.shape[-2:]
        where = anchors(height, width, hyper.device)
        hyper_means = hyper.chunk(2, dim=1)[1]
        found = _Found(self, quantizer, hyper, hyper_means)
        for place in range(self.settings.slices):
            earlier = found.earlier()
            ahead = [] if not place else self._ahead(place, earlier)
            extra = ahead
            if not place and isinstance(self.guide_anchor, IntraSliceContext):
                guide = self.guide(hyper)
                extra = [self.reweight_guide(self.guide_anchor(guide, only(guide, ~where), ~where))]
            known = found.code(place, [*extra, hyper], where, None)
            beside = []
            if self.local_context[place] is not None:
                beside.append(self.local_context[place](known))
            if self.global_intra_context[place] is not None:
                guide = found.slices[-1] if place else self.guide(hyper)
                context = self.global_intra_context[place](guide, known, where)
                reweight = self.reweight_intra[place]
                beside.append(context if reweight is None else reweight(context))
            found.code(place, [*beside, *ahead, hyper], ~where, known)
        return found.predicted()

    def _ahead(self, place: int, earlier: Tensor) -> list[Tensor]:
        """Contexts of earlier slices."""
        contexts = []
        if self.global_inter_context[place] is not None:
            context = self.global_inter_context[place](earlier)
            reweight = self.reweight_inter[place]
            contexts.append(context if reweight is None else reweight(context))
        if self.channel_context[place] is not None:
            contexts.append(self.channel_context[place](earlier))
        return contexts

    @classmethod
    def from_state_dict(cls, state_dict: Mapping[str, Tensor], **changes: Any) -> MLICv2:
        """A codec of weights whose sizes are read from their shapes: those of the official MLIC++, or of this class.

        Args:
            state_dict: of tensors.
            changes: fields of the configuration that shapes do not tell.

        Raises:
            ValueError: weights of another model.
        """
        from szilard.codecs.state_dicts import configuration_of, renamed

        own = renamed(state_dict)
        if "lrp_anchor.0.lrp_transform.6.weight" in own:
            raise ValueError(
                "these are weights of MLIC++ as it was first released, in 2023, with another residual prediction and "
                "synthesis: take its later weights."
            )
        model = cls(replace(configuration_of(own), **changes))
        try:
            wrong = model.load_state_dict(own, strict=False)
        except RuntimeError as error:  # of another shape
            reason = str(error).splitlines()[-1].strip()
            raise ValueError(f"these are not weights of MLIC++ or MLICv2: {reason}") from None
        missing = [key for key in wrong.missing_keys if not key.split(".")[-1].startswith("_") and "bound" not in key]
        if missing or wrong.unexpected_keys:
            named = ", ".join([*missing, *wrong.unexpected_keys][:3])
            raise ValueError(f"these are not weights of MLIC++ or MLICv2: {named} do not fit.")
        return model.eval()


class _Found:
    """What one walk has decoded so far."""

    def __init__(self, model: MLICv2, quantizer: Quantizer, hyper: Tensor, hyper_means: Tensor) -> None:
        self.model, self.quantizer, self.hyper, self.hyper_means = model, quantizer, hyper, hyper_means
        self.slices: list[Tensor] = []
        self.parameters: list[list[Tensor]] = [[], [], []]  # scales, means, coded of both passes, merged
        self.selection: list[tuple[slice, Tensor, Tensor]] = []
        self._half: tuple[Tensor, Tensor, Tensor | None] | None = None

    def earlier(self) -> Tensor:
        """[B, iC, h, w]."""
        return torch.cat(self.slices, dim=1) if self.slices else self.hyper[:, :0]

    def code(self, place: int, contexts: list[Tensor], where: Tensor, known: Tensor | None) -> Tensor:
        """One pass over slice `place` at `where`.

        Args:
            contexts: what is known, [B, ., h, w] each.
            known: decoded anchors in the second pass.

        Returns:
            Decoded values, in the second pass of both halves.
        """
        model, first = self.model, known is None
        heads = model.entropy_parameters_anchor if first else model.entropy_parameters_nonanchor
        scales, means = heads[place](torch.cat(contexts, dim=1))
        width = model.settings.width
        channels = slice(place * width, (place + 1) * width)
        coded = self._coded(place, channels, scales, means, where)
        values = self.quantizer(channels, where, scales, means, coded)
        found = values if known is None else known + values
        residual = (model.lrp_anchor if first else model.lrp_nonanchor)[place]
        if residual is not None:
            correction = residual(torch.cat([self.hyper_means, *self.slices, found], dim=1))
            found = found + only(correction, where)
        if self._half is None:
            self._half = (scales, means, coded)
        else:
            for kept, one, other in zip(self.parameters, self._half, (scales, means, coded), strict=True):
                if one is not None and other is not None:
                    kept.append(torch.where(where, other, one))
            self._half = None
            self.slices.append(found)
        return found

    def _coded(self, place: int, channels: slice, scales: Tensor, means: Tensor, where: Tensor) -> Tensor | None:
        settings = self.model.settings
        if settings.gsc == "off":
            return None
        if settings.gsc == "scale":
            return scales >= SCALE_THRESHOLD
        known = torch.cat([self.hyper, *self.slices], dim=1)
        logits = self.model.selection[place](scales.detach(), means.detach(), known.detach())
        self.selection.append((channels, logits, where))
        return torch.sigmoid(logits) >= settings.gsc_threshold

    def predicted(self) -> Predicted:
        """Of the whole of y."""
        scales, means, coded = (torch.cat(kept, dim=1) if kept else None for kept in self.parameters)
        assert scales is not None and means is not None
        return Predicted(torch.cat(self.slices, dim=1), scales, means, coded, self.selection)
