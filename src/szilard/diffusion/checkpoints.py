"""Checkpoints of masked diffusion models as stock transformers models: no code that comes with weights is run.

    LLaDA (model_type "llada")         -> LlamaForCausalLM; logits[i] are of the token at i
    Dream (model_type "Dream")         -> Qwen2ForCausalLM; logits[i] are of the token at i + 1
    any folder whose config.json has a "masked_diffusion" entry -> the architecture it names

The models are as their classes make them, causal; what makes them bidirectional is the attention mask they are given.
A model read here and saved with `save_pretrained` is an ordinary folder of the third kind.

The official LLaDA code rotates queries and keys in float32 whatever the weights are; a stock Llama in bfloat16 rotates
in bfloat16. In float32 and above the two agree.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2ForCausalLM,
    Qwen2Tokenizer,
)

from szilard.diffusion.canvas_model import MaskedDiffusionConfig
from szilard.diffusion.layouts import Layout, embedding_rows, layout_of
from szilard.engines.weights import filled_model, read_config, weight_files
from szilard.options import nearest

KEY = "masked_diffusion"  # in config.json
_DTYPES = {name: getattr(torch, name) for name in ("float64", "float32", "bfloat16", "float16")}


@dataclass(frozen=True)
class DiffusionCheckpoint:
    """A masked diffusion model that was read from a folder.

    Attributes:
        model: a stock transformers model, in eval mode; its own config has the "masked_diffusion" entry.
        diffusion: what a decoding loop has to know.
        folder: where it came from.
    """

    model: PreTrainedModel
    diffusion: MaskedDiffusionConfig
    folder: Path

    def tokenizer(self) -> Any:
        """See `read_tokenizer`."""
        return read_tokenizer(self.folder)


def diffusion_config(
    config: Mapping[str, Any], *, mask_token_id: int | None = None, tokens: Mapping[str, int] | None = None
) -> MaskedDiffusionConfig | None:
    """Whether a config.json is of a masked diffusion model, and of which kind.

    Args:
        config: what config.json holds.
        mask_token_id: instead of the config's.
        tokens: ids of special tokens, among which the end of a turn is looked up.

    Returns:
        None: it is of an ordinary language model, or of a diffusion model that is not known here.

    Raises:
        ValueError: a diffusion model without a mask id, or with ids outside its vocabulary.
        TypeError: ids that are no whole numbers, or switches that are neither true nor false.
    """
    layout = layout_of(config)
    if KEY in config:
        entry = config[KEY]
        fields = {field.name for field in dataclasses.fields(MaskedDiffusionConfig)}
        if not isinstance(entry, dict):
            raise ValueError(f"{KEY!r} in config.json must hold settings, as {{'mask_token_id': 4}}, not {entry!r}.")
        for name in entry:
            if name not in fields:
                raise ValueError(f"{KEY!r} in config.json has no setting {name!r}{nearest(name, fields)}")
        given = dict(entry)
    elif layout is not None:
        end = config.get("eos_token_id")
        given = {
            "mask_token_id": config.get("mask_token_id"),
            "eos_token_id": end[0] if isinstance(end, list) and end else end,
            "eot_token_id": (tokens or {}).get(layout.end_of_turn),
            "shift_logits": layout.shift_logits,
        }
    else:
        return None
    if mask_token_id is not None:
        given["mask_token_id"] = mask_token_id
    if given.get("mask_token_id") is None:
        raise ValueError("the config.json of this diffusion model names no mask_token_id: give one.")
    made = MaskedDiffusionConfig(**given)
    text: Any = config.get("text_config")
    vocabulary = embedding_rows(text if isinstance(text, dict) and "vocab_size" not in config else config)
    for name in ("mask_token_id", "eos_token_id", "eot_token_id"):
        token = getattr(made, name)
        if token is not None and token >= vocabulary:
            raise ValueError(f"{name} must be a token id below {vocabulary}, the vocabulary, not {token}.")
    return made


def read_checkpoint(
    folder: str | Path,
    dtype: str | torch.dtype = "auto",
    *,
    device: torch.device | str = "cpu",
    mask_token_id: int | None = None,
) -> DiffusionCheckpoint:
    """Read a masked diffusion model from a folder of safetensors, tensor by tensor.

    Args:
        folder: with config.json, the weights, and the tokenizer's files; from the hub:
            `huggingface_hub.snapshot_download(...)`.
        dtype: of the weights: "auto" (as stored), "float64", "float32", "bfloat16", "float16".
        device: where the weights go.
        mask_token_id: instead of the one in config.json.

    Raises:
        ValueError: no diffusion model, one that no stock architecture computes, or weights that are damaged, pickled,
            missing, unexpected or of another shape.
    """
    folder, wanted = Path(folder), _dtype(dtype)
    config = read_config(folder)
    layout = layout_of(config) if KEY not in config else None
    diffusion = diffusion_config(config, mask_token_id=mask_token_id, tokens=_special_tokens(folder))
    if diffusion is None:
        raise ValueError(
            f"{str(folder)!r} holds no masked diffusion model that is known here: its model_type is "
            f"{config.get('model_type')!r} (known: 'llada', 'Dream'), and its config.json has no {KEY!r}."
        )
    if config.get("quantization_config"):
        raise ValueError(f"{str(folder)!r} holds quantised weights, which are not read: get the original ones.")
    model = _stock(folder, wanted, device) if layout is None else _official(folder, config, layout, wanted, device)
    setattr(model.config, KEY, dataclasses.asdict(diffusion))
    return DiffusionCheckpoint(model, diffusion, folder)


def read_tokenizer(folder: str | Path) -> Any:
    """The tokenizer of a checkpoint, by a class of transformers: LLaDA's is a plain fast one, Dream's is Qwen2's.

    Raises:
        ValueError: its files are missing or damaged.
    """
    folder = Path(folder)
    config = read_config(folder)
    layout = layout_of(config) if KEY not in config else None
    kinds: dict[str, Any] = {"LLaDA": PreTrainedTokenizerFast, "Dream": Qwen2Tokenizer}
    needed = {"LLaDA": ("tokenizer.json",), "Dream": ("vocab.json", "merges.txt")}
    family = layout.family if layout is not None else ""
    missing = [name for name in needed.get(family, ()) if not (folder / name).is_file()]
    if missing and not (folder / "tokenizer.json").is_file():
        raise ValueError(f"{str(folder)!r} lacks {missing[0]!r}, which {family}'s tokenizer needs: download it.")
    kind = kinds.get(family, AutoTokenizer)
    try:
        tokenizer = kind.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # the tokenizers library raises bare Exceptions
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"no usable tokenizer in {str(folder)!r}: {reason}") from error
    for text, token in _special_tokens(folder).items():
        if (own := tokenizer.convert_tokens_to_ids(text)) != token:
            raise ValueError(
                f"the tokenizer in {str(folder)!r} reads {text!r} as token {own}, but its settings say {token}: its "
                "files do not belong together."
            )
    return tokenizer


def _official(
    folder: Path, config: dict[str, Any], layout: Layout, dtype: torch.dtype | None, device: torch.device | str
) -> PreTrainedModel:
    kind: Any = {"LLaDA": LlamaForCausalLM, "Dream": Qwen2ForCausalLM}[layout.family]
    return filled_model(kind, layout.config(config), folder, layout.stock_name, dtype=dtype, device=device)


def _stock(folder: Path, dtype: torch.dtype | None, device: torch.device | str) -> PreTrainedModel:
    weight_files(folder)  # refuses pickles
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            str(folder), dtype=dtype or "auto", use_safetensors=True, local_files_only=True, output_loading_info=True
        )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"no usable model in {str(folder)!r}: {reason}") from error
    model, report = loaded
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if wrong := sorted(map(str, report.get(what, ()))):
            raise ValueError(
                f"the weights in {str(folder)!r} do not fit its config.json: {what.replace('_', ' ')} {wrong[0]} and "
                f"{len(wrong) - 1} more."
            )
    return model.to(device).eval()


def _dtype(dtype: str | torch.dtype) -> torch.dtype | None:
    if dtype == "auto":
        return None
    found = _DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if found not in _DTYPES.values():
        raise ValueError(f"dtype must be one of 'auto', {', '.join(map(repr, _DTYPES))}, not {dtype!r}.")
    return found


def _special_tokens(folder: Path) -> dict[str, int]:
    """Ids of the tokens that were added to a vocabulary, as the tokenizer's settings list them."""
    file = folder / "tokenizer_config.json"
    try:
        added = json.loads(file.read_text(encoding="utf-8"))["added_tokens_decoder"]
        return {entry["content"]: int(token) for token, entry in added.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}  # the tokenizer says more of what is wrong when it is read
