"""SmolLM2: the alignment of its concepts by layer, a million activations of one layer, autoencoders of them."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import torch
from results_store import Store
from torch import Tensor

import szilard
from szilard.representation.concept_sae.alignment import concept_alignment
from szilard.representation.concept_sae.coder import SparseCoder
from szilard.representation.concept_sae.evaluation import evaluate_sae
from szilard.representation.concept_sae.harvest import harvest_activations
from szilard.representation.concept_sae.kinds import load_sae, make_sae
from szilard.representation.concept_sae.measures import sae_measures
from szilard.representation.concept_sae.pairs import ConceptPairs
from szilard.representation.concept_sae.states import concept_states
from szilard.representation.concept_sae.store import ActivationStore
from szilard.representation.concept_sae.training import SaeConfig, train_sae

LAYER, LENGTH, ROWS, EVERY = 10, 128, 1_000_000, 25_000
LAYERS = (0, 5, 10, 15, 20, 25, 30)
BEFORE = "They wrote about the word"  # so that no word is at the first position, where states are like no others
DICTIONARY, STEPS, BATCH = 2304, 400, 1024
CONTESTANTS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("top-k", {"k": 32}),
    # 0.7 lambda sqrt(m / d): between what lets R take all and what lets it take nothing.
    ("structured", {"sparsity_weight": 1.0, "rank_weight": 1.4}),
    ("l1", {"sparsity_weight": 1.0}),
    ("jump-relu", {"sparsity_weight": 0.3, "threshold": 0.5, "bandwidth": 0.5}),
    ("batch-top-k", {"k": 32}),
    ("p-annealing", {"sparsity_weight": 1.0}),
    ("top-k", {"k": 64}),
    ("structured", {"sparsity_weight": 2.0, "rank_weight": 2.8}),
)


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def pairs_in_context() -> ConceptPairs:
    """The packaged pairs, each word behind the same beginning of a sentence."""
    return ConceptPairs(
        {name: [(f"{BEFORE} {u}", f"{BEFORE} {v}") for u, v in both] for name, both in ConceptPairs.packaged().items()}
    )


def alignment(store: Store, model: str | None) -> None:
    """Direction by probe, cross-fitted, against swapped words; words alone and behind a beginning."""
    engine: Any = None
    for words, pairs in (("bare", ConceptPairs.packaged()), ("in context", pairs_in_context())):
        for layer in LAYERS:
            key = {"part": "smollm2", "model": model, "words": words, "layer": layer}
            if key in store:
                continue
            engine = engine or szilard.load(model, engine="transformers")
            start = time.process_time()
            found = concept_alignment(concept_states(engine, pairs, layer), null_permutations=5)
            assert found.null_diagonals is not None
            values = {
                "diagonal": found.diagonal.tolist(),
                "off-diagonal": found.mean_off_diagonal,
                "null": found.null_diagonals.mean(0).tolist(),
                "null bound": found.null_diagonals.amax(0).tolist(),
                "accuracy": found.probe_accuracy.tolist(),
                "projection error": found.projection_error,
                "names": list(found.names),
                "matrix": [[round(value, 3) for value in row] for row in found.matrix.tolist()],
                "seconds": round(time.process_time() - start, 1),
            }
            store.add(key, values)
            print(key, {name: values[name] for name in ("off-diagonal", "projection error", "seconds")}, flush=True)


def chunks(folder: Path, engine: Any) -> list[list[int]]:
    """Token ids of WikiText-2 (validation), Shakespeare and GSM8K (training), LENGTH at a time, in a fixed order."""
    problems = (folder / "gsm8k_train.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [(folder / name).read_text(encoding="utf-8") for name in ("wikitext2_valid.txt", "tinyshakespeare.txt")]
    texts.append("\n\n".join(f"{one['question']}\n{one['answer']}" for one in map(json.loads, problems)))
    ids = [list(engine.tokenizer(text)["input_ids"]) for text in texts]
    found = [part[at : at + LENGTH] for part in ids for at in range(0, len(part) - LENGTH + 1, LENGTH)]
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(0))
    return [found[at] for at in order.tolist()]


def harvest(store: Store, model: str | None, data: Path, folder: Path, rows: int = ROWS) -> None:
    """Activations to disk, and how much memory that takes as it goes on; the layers above are not computed."""
    engine: Any = szilard.load(model, engine="transformers")
    texts = chunks(data, engine)
    print(f"{len(texts)} chunks of {LENGTH} tokens", flush=True)
    body = engine.model.base_model
    # One layer above, because the last of hidden_states is what the final norm makes of it.
    body.layers = body.layers[: LAYER + 1]
    engine.model.config.num_hidden_layers = LAYER + 1
    start, next_at = (time.perf_counter(), time.process_time()), [0]

    def note(done: int) -> None:
        if done < next_at[0]:
            return
        next_at[0] = done // EVERY * EVERY + EVERY
        key = {"part": "harvest", "model": model, "layer": LAYER, "rows": done // EVERY * EVERY}
        if key not in store:
            wall, cpu = time.perf_counter() - start[0], time.process_time() - start[1]
            values = {"resident_mb": round(resident() / 2**20, 1), "wall": round(wall, 1), "cpu": round(cpu, 1)}
            store.add(key, values)
            print(key, values, flush=True)

    # The first token of a text has a state like no other.
    harvest_activations(
        engine, texts, folder, layer=LAYER, max_length=LENGTH, max_rows=rows, skip_first=1, batch_size=8, progress=note
    )


@torch.no_grad()
def loss_recovered(sae: SparseCoder | None, engine: Any, texts: Tensor, mean: Tensor) -> dict[str, float]:
    """Nats per token of the model as it is, with a layer's states as the autoencoder gives them, and with their mean.

    Args:
        sae: None: without it.
        engine: the whole model.
        texts: ids [B, T].
        mean: of the states [d].
    """

    def loss(change: Any) -> float:
        def hook(_: Any, inputs: tuple[Any, ...], named: dict[str, Any]) -> Any:
            if change is None:
                return None
            states = inputs[0] if inputs else named["hidden_states"]
            changed = change(states.flatten(0, 1)).view_as(states)
            changed = torch.cat([states[:, :1], changed[:, 1:]], 1)  # the first was not learned from
            return ((changed, *inputs[1:]), named) if inputs else (inputs, named | {"hidden_states": changed})

        handle = engine.model.base_model.layers[LAYER].register_forward_pre_hook(hook, with_kwargs=True)
        try:
            losses = [float(engine.model(input_ids=part, labels=part).loss) for part in texts.split(8)]
        finally:
            handle.remove()
        return sum(losses) / len(losses)

    whole, gone = loss(None), loss(lambda x: mean.expand_as(x))
    found = {"loss": whole, "loss without": gone}
    if sae is not None:
        found["loss with"] = loss(sae)
        found["recovered"] = (gone - found["loss with"]) / (gone - whole)
    return found


def held_out(data: Path, engine: Any) -> Tensor:
    """The beginning of WikiText-2's test part, ids [32, LENGTH]."""
    text = (data / "wikitext2_test.txt").read_text(encoding="utf-8")[:40_000]
    return torch.tensor(list(engine.tokenizer(text)["input_ids"])[: 32 * LENGTH]).view(32, LENGTH)


def saes(store: Store, model: str | None, data: Path, folder: Path, out: Path, kinds: list[str] | None) -> None:
    """Train every contestant for a few minutes, and grade it on the concept pairs."""
    activations = ActivationStore(folder)
    engine: Any = szilard.load(model, engine="transformers")
    texts, states = held_out(data, engine), concept_states(engine, pairs_in_context(), LAYER)
    for kind, settings in CONTESTANTS:
        key = {"part": "saes", "model": model, "layer": LAYER, "rows": len(activations), "kind": kind, **settings}
        if key in store or (kinds and kind not in kinds):
            continue
        start = time.process_time()
        place = out / "-".join([kind, *(f"{name}-{value:g}" for name, value in settings.items())])
        torch.manual_seed(0)
        sae = make_sae(kind, activations.input_dim, DICTIONARY, **settings)
        config = SaeConfig(
            steps=STEPS, batch_size=BATCH, learning_rate=2e-3, evaluations=2, save_every=100, log_every=100
        )
        train_sae(sae, activations, place, config, device="cpu")
        trained = time.process_time() - start
        sae = load_sae(place)
        values: dict[str, Any] = {
            name: round(value, 4) for name, value in sae_measures(sae, activations, rows=slice(-16384, None)).items()
        }
        values |= {name: round(v, 4) for name, v in loss_recovered(sae, engine, texts, activations.mean).items()}
        codes = ("all", "sparse") if kind == "structured" else ("all",)
        for code in codes:
            for metric in ("exp_pearson", "log_pearson"):
                report = evaluate_sae(sae, states, metric=metric, code=code, either_side=True, floor_draws=1)
                values[f"{code}, {metric}"] = {
                    "mean": round(report.mean, 4),
                    "floor": round(report.floor, 4),
                    "auroc": round(report.auroc, 4),
                    "ceiling": round(report.ceiling, 4),
                    "active": round(report.active, 1),
                    "by concept": {one.name: round(one.correlation, 3) for one in report.concepts},
                }
        values["seconds"] = {"training": round(trained), "all": round(time.process_time() - start)}
        store.add(key, values)
        print(key, values, flush=True)
