"""The encoder's latent tokens of a training set, on disk in parts that are whole or not there."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from szilard.reasoning.latent_sft.encoder import LatentTokenEncoder
from szilard.reasoning.latent_sft.samples import Sample, encoder_slots, padded, samples_digest
from szilard.whole_folder import held, write_whole

Label = dict[str, torch.Tensor]  # "probabilities" [N, k]; "tokens" [N, k] unless all are mixed; "hidden" [N, d] if fed
_PART = 1024  # problems in a file
_NOTE = "labels.json"


@torch.no_grad()
def generate_soft_labels(
    encoder: LatentTokenEncoder,
    samples: Sequence[Sample],
    folder: Path | None = None,
    *,
    batch_size: int = 64,
    progress: Callable[[int, int], None] | None = None,
) -> list[Label]:
    """alpha of every chain; parts that are in the folder are not computed again.

    Args:
        encoder: trained; its settings say r, k and what is fed.
        samples: the problems.
        folder: keeps the labels; None: they are not kept. Labels of another encoder or other problems make way.
        batch_size: problems at once.
        progress: is told (done, total) problems.

    Returns:
        Per problem "probabilities", float32 [N, k]; "tokens", int64 [N, k], unless the whole vocabulary is mixed; and
        "hidden" [N, d] where the encoder's states are fed.

    Raises:
        ValueError: another process writes the folder.
    """
    before = encoder.training
    encoder.eval()
    try:
        if folder is None:
            made = [_part(encoder, samples, batch_size)] if samples else []
            return _by_problem(made)
        note = _note(encoder, samples)
        files = {start: folder / f"part-{start // _PART:05d}.safetensors" for start in range(0, len(samples), _PART)}
        if not _ours(folder, note) or not all(file.is_file() for file in files.values()):
            folder.mkdir(parents=True, exist_ok=True)
            with held(folder / ".lock", f"the labels in {str(folder)!r}"):
                _claim(folder, note)
                for start, file in files.items():
                    if not file.is_file():
                        scratch = file.with_name(f".{file.name}.tmp")
                        save_file(_part(encoder, samples[start : start + _PART], batch_size), scratch)
                        os.replace(scratch, file)
                    if progress is not None:
                        progress(min(start + _PART, len(samples)), len(samples))
        return _by_problem([load_file(file) for file in files.values()])
    finally:
        encoder.train(before)


def _note(encoder: LatentTokenEncoder, samples: Sequence[Sample]) -> str:
    """What labels depend on."""
    config = encoder.config
    settings = [config.compression_rate, config.top_k, config.readout, config.feedback, config.induction_mask]
    problems = samples_digest(samples)
    return json.dumps({"encoder": weights_digest(encoder), "problems": problems, "settings": settings})


def _ours(folder: Path, note: str) -> bool:
    file = folder / _NOTE
    return file.is_file() and file.read_text(encoding="utf-8") == note


def _claim(folder: Path, note: str) -> None:
    """Throw away what another encoder or other problems left here."""
    if not _ours(folder, note):
        (folder / _NOTE).unlink(missing_ok=True)  # first: parts without a note are nobody's
        for file in folder.glob("part-*.safetensors"):
            file.unlink()
        write_whole(folder / _NOTE, note)


def weights_digest(encoder: LatentTokenEncoder) -> str:
    """A hash of all that a label depends on: the encoder's weights and the vocabulary that it reads out in."""
    found = hashlib.sha256()
    space = encoder.space
    read_out = [space.model.get_output_embeddings().weight] if space.readout == "lm_head" else []
    for parameter in (*encoder.parameters(), space.embedding.weight, *read_out):
        found.update(parameter.detach().float().cpu().numpy().tobytes())
    return found.hexdigest()[:16]


def _part(encoder: LatentTokenEncoder, samples: Sequence[Sample], batch_size: int) -> dict[str, torch.Tensor]:
    """The labels of some problems one after the other, and "counts", how many each has."""
    device, rate = encoder.compress.device, encoder.config.compression_rate
    rows: dict[str, list[torch.Tensor]] = {"probabilities": [], "tokens": [], "hidden": []}
    for start in range(0, len(samples), batch_size):
        slots = padded([encoder_slots(one, rate) for one in samples[start : start + batch_size]])
        made = encoder(slots["ids"].to(device), slots["role"].to(device))
        rows["probabilities"].append(made.probabilities.float().cpu())
        if made.tokens is not None:
            rows["tokens"].append(made.tokens.int().cpu())
        if encoder.config.feedback == "hidden_state":
            rows["hidden"].append(made.hidden.cpu())
    counts = torch.tensor([-(-len(one.chain) // rate) for one in samples])
    return {name: torch.cat(values) for name, values in rows.items() if values} | {"counts": counts}


def _by_problem(parts: Sequence[dict[str, torch.Tensor]]) -> list[Label]:
    found: list[Label] = []
    for part in parts:
        counts = part.pop("counts").tolist()
        columns = {name: (values.long() if name == "tokens" else values).split(counts) for name, values in part.items()}
        found += [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return found


def forget_labels(folder: Path) -> None:
    """Remove labels that are not kept for further trainings."""
    shutil.rmtree(folder, ignore_errors=True)
