"""Training of sparse autoencoders through the one loop, on a tensor or on activations that stay on disk."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import TrainerCallback

from szilard.representation.concept_sae.autoencoders import PAnnealSae
from szilard.representation.concept_sae.coder import SparseCoder
from szilard.representation.concept_sae.config import SaeConfig
from szilard.representation.concept_sae.measures import sae_measures
from szilard.representation.concept_sae.store import ActivationStore
from szilard.training.loop import planned_steps
from szilard.training.recipe import Stage, StageResult, run_recipe
from szilard.training.run_folder import claim
from szilard.whole_folder import as_folder, check_folder, held, write_whole

_NOTE, _STAGE = "autoencoder.yaml", "autoencoder"


class Rows(Dataset[Tensor]):
    """The first rows of activations; a batch is read at once, wherever on disk its rows lie."""

    def __init__(self, activations: ActivationStore | Tensor, count: int) -> None:
        self.activations, self.count = activations, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Tensor:
        return self.activations[index]

    def __getitems__(self, indices: Sequence[int]) -> Tensor:
        """[n, d]; what a loader asks for."""
        return self.activations[torch.as_tensor(indices)]

    @staticmethod
    def collate(rows: Tensor | list[Tensor]) -> dict[str, Tensor]:
        """{"x": float32 [B, d]}."""
        return {"x": (rows if isinstance(rows, Tensor) else torch.stack(rows)).float()}


class SaeObjective(nn.Module):
    """Activations -> the loss of an autoencoder."""

    skips_parameters = True

    def __init__(self, sae: SparseCoder) -> None:
        super().__init__()
        self.sae = sae

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """ "loss" of x [B, d], and its terms."""
        return self.sae.loss(x)


class _Steps(TrainerCallback):
    """Warm-ups and updates of p before a step; unit columns around it."""

    def __init__(self, sae: SparseCoder, config: SaeConfig) -> None:
        self.sae, self.settings = sae, config

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        share = state.global_step / max(1, state.max_steps)
        self.sae.begin_step(share, self.settings.sparsity_warmup, self.settings.anneal_start)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.sae.project_gradient()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.sae.normalise()


def train_sae(
    sae: SparseCoder,
    activations: ActivationStore | Tensor,
    folder: Path | str,
    config: SaeConfig | None = None,
    *,
    resume: bool = True,
    device: torch.device | str | None = None,
) -> StageResult:
    """Train an autoencoder, and write it to a folder that `load_sae` and `from_pretrained` read.

    Args:
        sae: is trained in place; one that has not been trained takes scale and mean of the activations first.
        activations: a store, or a tensor [N, d].
        folder: gets the model, its card, metrics and checkpoints; a run that was stopped goes on.
        config: the settings.
        resume: False: forget an earlier run.
        device: None: what there is.

    Returns:
        The rows of the loop, and of the evaluations on held-out activations (see `sae_measures`).

    Raises:
        TypeError: activations that are neither a store nor a tensor of floats.
        ValueError: a device that is none; activations of another width, too few, without a spread or no numbers; a
            folder of another run.
    """
    config, folder = SaeConfig() if config is None else config, as_folder(folder)
    if not isinstance(config, SaeConfig):
        raise TypeError(f"config must be a SaeConfig, not {type(config).__name__}.")
    check_device(device)
    mean, scale = _checked(sae, activations)
    if isinstance(activations, Tensor):
        activations = activations.detach()
    kept = min(config.held_out_rows, round(config.held_out * len(activations)))
    learned = len(activations) - kept
    if learned < 2:
        raise ValueError(f"{len(activations)} activations are too few: lower held_out, or give more.")
    measured = slice(learned, None) if kept else slice(0, min(learned, config.held_out_rows))
    check_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    source = _source(activations)
    given = getattr(sae, "_hub_mixin_config", None) or {}
    note = f"# sparse autoencoder {sae.kind} {json.dumps(given, sort_keys=True)}\n# {_identity(activations, mean)}\n"
    steps = planned_steps(learned, config)
    stage = Stage(
        _STAGE,
        config,
        objective=lambda: SaeObjective(sae),
        data=lambda: Rows(activations, learned),
        collate=Rows.collate,
        evaluate=lambda _: sae_measures(sae, activations, rows=measured, batch_size=config.batch_size),
        evaluate_every=max(1, steps // config.evaluations),
        callbacks=(_Steps(sae, config),),
    )
    with contextlib.ExitStack() as opened:
        main = PartialState(**({"cpu": True} if str(device) == "cpu" else {})).is_main_process
        if main:
            opened.enter_context(held(folder / ".lock", f"the folder {str(folder)!r}"))
            claim(
                folder,
                note,
                folders=(_STAGE,),
                files=(),
                restart=not resume,
                other="autoencoder or activations",
                note=_NOTE,
            )
        if not bool(sae.begun):
            sae.initialise(mean, scale if config.scale_inputs else 1.0)
        found = run_recipe([stage], folder, resume=resume, device=device)[_STAGE]
        sae.sparsity_scale = 1.0
        sae.cpu().eval()
        if main:
            sae.save_pretrained(folder, config={**given, **source})
            write_whole(folder / "README.md", _card(sae, config, activations, found))
    return found


def check_device(device: Any) -> None:
    """Refuse a device that a training cannot have.

    Raises:
        TypeError: no name.
        ValueError: no such device, or one that is not here.
    """
    if device is None:
        return
    if not isinstance(device, (str, torch.device)):
        raise TypeError(f"device must be a name, a torch.device or None, not {device!r:.60}.")
    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise ValueError(f"there is no device {str(device)!r}: name cpu, cuda or mps, or leave it out.") from error
    here = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not here.get(kind, True) or kind == "meta":
        raise ValueError(f"there is no device {str(device)!r} here: name another, or leave it out.")


def _source(activations: ActivationStore | Tensor) -> dict[str, Any]:
    """What config.json keeps of where the activations are from."""
    if isinstance(activations, Tensor):
        return {}
    return {"activations": {name: activations.header[name] for name in ("model", "layer")}}


def _checked(sae: SparseCoder, activations: Any) -> tuple[Tensor, float]:
    """The mean [d] of activations, and what scales their mean norm to sqrt(d)."""
    if not isinstance(sae, SparseCoder):
        raise TypeError(f"sae must be one of the autoencoders of this package, not {type(sae).__name__}.")
    if isinstance(activations, ActivationStore):
        width, mean, scale = activations.input_dim, activations.mean, activations.scale
    elif isinstance(activations, Tensor) and activations.is_floating_point():
        if activations.dim() != 2 or not activations.numel():
            raise ValueError(f"activations must be [rows, {sae.input_dim}], not {list(activations.shape)}.")
        if not bool(torch.isfinite(activations).all()):
            raise ValueError("activations must be finite: leave out the rows that are not.")
        width = activations.shape[1]
        wide = torch.promote_types(activations.dtype, torch.float32)
        mean = activations.detach().mean(0, dtype=wide).float().cpu()
        norm = float(activations.detach().norm(dim=1, dtype=wide).mean())
        scale = width**0.5 / max(norm, 1e-30)
        if not norm < 1e15:  # the squares of what is added up must be numbers, too
            raise ValueError(f"the activations have a mean norm of {norm:.3g}, too large for float32: scale them down.")
    else:
        raise TypeError(
            f"activations must be an ActivationStore or a tensor of floats [N, d], not {type(activations).__name__}."
        )
    if width != sae.input_dim:
        raise ValueError(f"the autoencoder reads activations of width {sae.input_dim}, not {width}.")
    if not scale < 1e20:
        raise ValueError("the activations are all zero: there is nothing to learn.")
    return mean, scale


def _identity(activations: ActivationStore | Tensor, mean: Tensor) -> str:
    digest = hashlib.sha256(mean.contiguous().numpy().tobytes()).hexdigest()[:16]
    return f"{len(activations)} activations, {digest}"


def _card(sae: SparseCoder, config: SaeConfig, activations: ActivationStore | Tensor, found: StageResult) -> str:
    source = "a tensor"
    if isinstance(activations, ActivationStore):
        source = f"hidden_states[{activations.header['layer']}] of {activations.header['model']}"
    options = dict(getattr(sae, "_hub_mixin_config", None) or {})
    last = found.evaluations[-1] if found.evaluations else {}
    annealed = (
        f" p ended at {float(sae.p):.3g}, lambda at {float(sae.weight):.3g}." if isinstance(sae, PAnnealSae) else ""
    )
    return (
        f"# A sparse autoencoder ({sae.kind})\n\nTrained with szilard on {len(activations)} activations of width "
        f"{sae.input_dim}, from {source}: {found.metrics[-1]['step'] if found.metrics else 0} steps of "
        f"{config.batch_size} rows, learning rate {config.learning_rate:g}, seed {config.seed}.{annealed}\n\n"
        f"Its settings: {json.dumps(options)}\n\nOn held-out activations: {json.dumps(last)}\n\n"
        "```python\nfrom szilard.representation.concept_sae.kinds import load_sae\n"
        'sae = load_sae("this folder")\nsae.encode(activations)    # [N, m]\n```\n'
    )
