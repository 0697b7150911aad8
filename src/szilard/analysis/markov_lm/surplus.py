"""The information surplus of hidden states by offset, with its standard errors over texts."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from szilard.analysis.markov_lm.bootstrap import Estimate, by_document
from szilard.analysis.markov_lm.collection import Positions
from szilard.analysis.markov_lm.probes import (
    ProbeConfig,
    bigram_losses,
    chosen_baseline,
    plain_start,
    split_documents,
    state_losses,
    train_probe,
    useful_draft_length,
    window_start,
)
from szilard.whole_folder import check_folder, write_whole

_NOTE = "markov.txt"


@dataclass(frozen=True)
class SurplusRow:
    """Of one layer and one offset j: the token j steps beyond the next one. Nats; see `probes`.

    Attributes:
        layer: whose state.
        offset: j.
        given: which of the tokens between a drafter sees: all, the next, or nothing.
        without: A, from the tokens between alone; `baseline` says by what.
        with_state: B, a probe that has the state, too.
        model: C, the model with everything.
        surplus: A - B.
        recovered: (A - B) / (A - C); None where the model with everything is no better than A.
        top1_agreement: how often the probe's likeliest token is the model's: what a draft could have accepted.
        top1_without: the same of the probe without a state.
    """

    layer: int
    offset: int
    given: str
    without: Estimate
    baseline: str
    with_state: Estimate
    model: Estimate
    surplus: Estimate
    recovered: float | None
    top1_agreement: Estimate
    top1_without: Estimate


def surplus_rows(
    engine: Any,
    model: Any,
    seen: Positions,
    head: Tensor,
    layers: Sequence[int],
    horizon: int,
    *,
    given: str,
    config: ProbeConfig,
    folder: Path | None,
    seed: int,
) -> dict[str, Any]:
    """Rows by offset and layer, and how far a draft from the last of the layers is useful.

    Args:
        engine, model: whose states these are.
        seen: positions with their states.
        head: U, [V, d].
        layers, horizon, given: as in `markov_report`.
        config: of the probes.
        folder: of the probes' checkpoints; None: thrown away.
        seed: of the split by document.
    """
    parts = split_documents(seen.document, seed)
    tested, document = parts["tested"], seen.document[parts["tested"]]
    embeddings = model.get_input_embeddings().weight.detach()[: len(head)]
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch) if folder is None else folder
        if folder is not None:
            _claim(folder, engine, seen, layers, given)
        for offset in range(1, horizon):
            tokens, target = seen.following[:, : _shown(given, offset)], seen.following[:, offset]
            candidates = {}
            if given == "all":
                start = window_start(model, tokens, target, parts, head, engine.tokenizer.bos_token_id)
                candidates["model on the window"] = state_losses(start.states[tested], target[tested], head)
            else:
                start = plain_start(seen.hidden[layers[0]], target, parts, head)
            shared = (tokens, target, parts, embeddings, head, start)
            blind, blind_best = train_probe(
                seen.hidden[layers[0]], *shared, place / f"offset-{offset}-blind", config, sees=False
            )
            last = tokens[:, -1] if tokens.shape[1] else torch.zeros_like(target)
            candidates |= {
                "probe": blind,
                "bigram" if tokens.shape[1] else "frequencies": bigram_losses(last, target, parts, len(head)),
            }
            name, without = chosen_baseline(candidates)
            whole, wanted = seen.nll[tested, offset], seen.greedy[tested, offset]
            for layer in layers:
                loss, best = train_probe(
                    seen.hidden[layer], *shared, place / f"offset-{offset}-layer{layer}", config, sees=True
                )
                most = float((without - whole).mean())
                rows.append(
                    SurplusRow(
                        layer=layer,
                        offset=offset,
                        given=given,
                        without=by_document(without, document),
                        baseline=name,
                        with_state=by_document(loss, document),
                        model=by_document(whole, document),
                        surplus=by_document(without - loss, document),
                        recovered=float((without - loss).mean()) / most if most > 0 else None,
                        top1_agreement=by_document((best == wanted).float(), document),
                        top1_without=by_document((blind_best == wanted).float(), document),
                    )
                )
    shares = [0.0 if row.recovered is None else row.recovered for row in rows if row.layer == layers[-1]]
    return {"surplus": rows, "draft_length": useful_draft_length(shares)}


def _shown(given: str, offset: int) -> int:
    return {"all": offset, "next": 1, "nothing": 0}[given]


def _claim(folder: Path, engine: Any, seen: Positions, layers: Sequence[int], given: str) -> None:
    """Note whose probes are in a folder; probes of other states would be taken for these."""
    check_folder(folder)
    digest = hashlib.sha256(str(getattr(engine, "fingerprint", engine.name)).encode())
    for part in (seen.document, seen.place, seen.following, *(seen.hidden[layer] for layer in layers)):
        digest.update(part.contiguous().numpy().tobytes())
    text = f"# probes of {engine.name}, given {given}\n# {digest.hexdigest()[:16]}\n"
    note = folder / _NOTE
    if note.is_file() and note.read_text(encoding="utf-8") != text:
        raise ValueError(
            f"{str(folder)!r} holds probes of another model, other texts or other draws: give the same ones to go on, "
            "or another folder."
        )
    if not note.is_file() and any(folder.glob("offset-*")):
        raise ValueError(f"{str(folder)!r} holds files of something else: name a new folder.")
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(note, text)
