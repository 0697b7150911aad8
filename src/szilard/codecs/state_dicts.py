"""Sizes of a codec from its weights, and the names that older CompressAI checkpoints use."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from szilard.codecs.mlicv2 import MLICv2Config

_OLD = re.compile(r"(entropy_bottleneck)\._(matrix|bias|factor)(\d+)$")
_NEW = {"matrix": "matrices", "bias": "biases", "factor": "factors"}


def renamed(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """With today's names of CompressAI's entropy bottleneck, and without a `module.` in front."""
    own = {key.removeprefix("module."): value for key, value in state_dict.items()}
    return {_OLD.sub(lambda match: f"{match[1]}.{_NEW[match[2]]}.{match[3]}", key): value for key, value in own.items()}


def configuration_of(state_dict: Mapping[str, Tensor]) -> MLICv2Config:
    """The configuration of an MLIC++ or MLICv2.

    Raises:
        ValueError: weights of something else.
    """

    def some(part: str) -> bool:
        return any(key.startswith(part) for key in state_dict)

    try:
        hyper = state_dict["h_a.reduction.8.weight"].shape[0]
        latent = state_dict["h_a.reduction.0.weight"].shape[1]
        heads = [key for key in state_dict if re.fullmatch(r"entropy_parameters_anchor\.\d+\.fusion\.0\.weight", key)]
        first = state_dict["entropy_parameters_anchor.0.fusion.0.weight"]
    except KeyError as missing:
        raise ValueError(f"these are not weights of MLIC++ or MLICv2: there is no {missing}.") from None
    fusion = state_dict.get("local_context.0.fusion.weight")
    guided = some("guide.")
    strided = [re.fullmatch(r"g_a\.analysis_transform\.(\d+)\.gdn\.beta", key) for key in state_dict]
    first_stage, second_stage, *_ = sorted(int(match[1]) for match in strided if match) or (0, 2)
    between = second_stage - first_stage - 1
    mixing = some("g_a.analysis_transform.1.mix.")
    return MLICv2Config(
        N=hyper,
        M=latent,
        slices=len(heads),
        window=5 if fusion is None else fusion.shape[-1],
        transform="stm" if mixing else "residual",
        channel=some("channel_context.1."),
        local=fusion is not None,
        inter=some("global_inter_context.1."),
        intra=some("global_intra_context."),
        hgcp="anchor+nonanchor" if some("guide_anchor.") else "nonanchor" if guided else "off",
        reweighting=some("reweight_"),
        rope=any(".rope." in key for key in state_dict),
        lrp=some("lrp_anchor."),
        gsc="learned" if some("selection.") else "off",
        hidden=first.shape[0] / 320,
        blocks=max(1, between // 2 if mixing else between),
        attention=some("g_s.synthesis_transform.0.blocks."),
    )
