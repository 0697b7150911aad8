"""Models of transformers as parts: built anew from the config that a saved VL-JEPA holds."""

from __future__ import annotations

from typing import Any


def stock_model(config: dict[str, Any]) -> Any:
    """The model without a head that a config, as a dictionary, describes; new weights.

    Raises:
        ValueError: transformers knows no such model.
    """
    from transformers import AutoConfig, AutoModel

    settings = {name: value for name, value in config.items() if name not in ("model_type", "transformers_version")}
    kind = config.get("model_type")
    if not isinstance(kind, str):
        raise ValueError("the config of a part names no model_type, so transformers cannot build it.")
    try:
        return AutoModel.from_config(AutoConfig.for_model(kind, **settings))
    except (ValueError, KeyError) as error:
        raise ValueError(f"this transformers builds no {kind!r} ({' '.join(str(error).split())[:200]}).") from error
