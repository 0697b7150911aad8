"""`szilard train sae`: a sparse autoencoder of a layer's activations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from szilard.cli import options as o
from szilard.cli.loading import errors, load_engine, needs, note, training_device
from szilard.cli.train_heads import ConfigOption, LimitOption, OutputOption, RestartOption, add_flags
from szilard.representation.concept_sae.config import SaeConfig


def sae(
    output: OutputOption,
    data: Annotated[
        Path | None, typer.Option("--data", help="Texts (.jsonl, .json, .csv, .parquet, .txt) to take activations of.")
    ] = None,
    activations: Annotated[
        Path | None, typer.Option("--activations", help="Their folder: read without --data, else written first.")
    ] = None,
    model: o.ModelOption = None,
    layer: Annotated[
        int | None, typer.Option("--layer", help="k of hidden_states[k]; default: -1, what the output layer reads.")
    ] = None,
    rows: Annotated[int | None, typer.Option("--rows", help="At most so many activations.")] = None,
    length: Annotated[
        int | None, typer.Option("--length", help="Longer texts are cut, in tokens; default: 512.")
    ] = None,
    skip_first: Annotated[
        int | None, typer.Option("--skip-first", help="Tokens of each text that give no row; default: 0.")
    ] = None,
    numbers: Annotated[
        str | None, typer.Option("--numbers", help="float16 or float32, on disk; default: float16.")
    ] = None,
    limit: LimitOption = None,
    kind: Annotated[
        str, typer.Option("--kind", help="l1, top-k, batch-top-k, jump-relu, p-annealing or structured.")
    ] = "top-k",
    dictionary_size: Annotated[
        int | None, typer.Option("--dictionary-size", help="m; default: 8 times the width.")
    ] = None,
    k: Annotated[int | None, typer.Option("--k", help="Active features, of top-k and batch-top-k.")] = None,
    sparsity_weight: Annotated[float | None, typer.Option("--sparsity-weight", help="lambda, of the others.")] = None,
    rank_weight: Annotated[float | None, typer.Option("--rank-weight", help="gamma, of structured.")] = None,
    rank_head: Annotated[
        str | None, typer.Option("--rank-head", help="linear, factorised or none, of structured.")
    ] = None,
    config: ConfigOption = None,
    restart: RestartOption = False,
    device: o.DeviceOption = None,
    dtype: o.DtypeOption = "auto",
    as_json: o.JsonOption = False,
    **settings: Any,
) -> None:
    """Train a sparse autoencoder on the activations of a layer.

    With --data a model runs over the texts first and its activations are kept. A stopped run goes on, harvest and
    training alike, when the command is given again.
    """
    needs("accelerate")
    import torch

    from szilard.representation.concept_sae.harvest import harvest_activations
    from szilard.representation.concept_sae.kinds import KINDS, make_sae
    from szilard.representation.concept_sae.store import ActivationStore
    from szilard.representation.concept_sae.training import train_sae
    from szilard.training.config import read_config
    from szilard.training.corpus import read_corpus, read_texts
    from szilard.whole_folder import check_folder

    chosen = read_config(SaeConfig, config, settings)
    if kind not in KINDS:
        raise ValueError(f"--kind must be one of {', '.join(KINDS)}, not {kind!r}.")
    if data is None and activations is None:
        raise ValueError("give --data with texts, or --activations with a folder of them.")
    harvest = {"model": model, "layer": layer, "rows": rows, "length": length, "skip-first": skip_first}
    harvest |= {"numbers": numbers, "limit": limit, "dtype": None if dtype == "auto" else dtype}
    ignored = [f"--{name}" for name, value in harvest.items() if value is not None]
    if data is None and ignored:
        raise ValueError(
            f"{', '.join(ignored)} would be ignored: without --data the activations are read as they are; give --data, "
            "or leave it out."
        )
    own = {"k": k, "sparsity_weight": sparsity_weight, "rank_weight": rank_weight, "rank_head": rank_head}
    own = {name: value for name, value in own.items() if value is not None}
    make_sae(kind, 1, 2**20 if dictionary_size is None else dictionary_size, **own)  # told before a model runs
    check_folder(output)
    if data is None:
        assert activations is not None
        store = ActivationStore(activations)
    else:
        read_texts(data)
        engine = load_engine(model, "transformers", device, dtype)
        width = int(getattr(engine.model.config.get_text_config(), "hidden_size", 1))  # type: ignore[attr-defined]
        make_sae(kind, 1, 8 * width if dictionary_size is None else dictionary_size, **own)  # k above m
        place = output / "activations" if activations is None else activations
        with errors.status("activations") as shown:
            store = harvest_activations(
                engine,
                (list(text.ids) for text in read_corpus(data, engine, limit=limit)),
                place,
                layer=-1 if layer is None else layer,
                max_length=512 if length is None else length,
                max_rows=rows,
                skip_first=skip_first or 0,
                numbers=numbers or "float16",
                progress=lambda done: shown.update(f"{done} activations"),
            )
        del engine
        note(f"{len(store)} activations of width {store.input_dim} in {place}")
    torch.manual_seed(chosen.seed)
    made = make_sae(kind, store.input_dim, dictionary_size or 8 * store.input_dim, **own)
    found = train_sae(made, store, output, chosen, resume=not restart, device=training_device(device))
    last = {name: value for name, value in found.evaluations[-1].items() if name != "step"}
    if as_json:
        print(json.dumps({"kind": kind, "rows": len(store), "folder": str(output), **last}))
        return
    told = ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in last.items())
    note(f"held-out activations: {told}; written to {output}")


add_flags(sae, SaeConfig)
