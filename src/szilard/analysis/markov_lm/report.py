"""The diagnostics of a model on texts, in one call.

Zhang, "A Markov Categorical Framework for Language Modeling", arXiv:2507.19247, defines the quantities and measures
none; every estimator here is ours, and stands in the file that has it.

    entropy      how stochastic the head is; loss minus entropy: below 0 the model is less sure than it may be, above 0
                 surer (a calibrated one has 0)
    surplus      what a hidden state tells about tokens beyond the next one: what a draft head could gain
    geometry     which directions of hidden space the next token depends on
    alignment    whether contexts that predict alike lie near each other
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from szilard.analysis.markov_lm.bootstrap import Estimate, by_document
from szilard.analysis.markov_lm.collection import Collected, collect, linear_head, windows
from szilard.analysis.markov_lm.probes import (
    ProbeConfig,
    bigram_losses,
    chosen_baseline,
    split_documents,
    train_probe,
    useful_draft_length,
    window_losses,
)
from szilard.information.predictive_geometry import spectrum_numbers
from szilard.information.predictive_similarity import (
    KERNELS,
    dirichlet_energy,
    linear_cka,
    operator_spectrum,
    predictive_similarity,
    spectral_alignment,
)
from szilard.options import check_bool, check_choice, check_number
from szilard.training.recipe import own_chance

_MEASURED = ("kl", "tv", "hellinger")
_DIRECTIONS = 16  # of the mean metric that are compared with chance


@dataclass(frozen=True)
class SurplusRow:
    """Of one layer and one offset j: the token j steps beyond the next one. Nats; see `probes`.

    Attributes:
        layer: whose state.
        offset: j.
        without: A, from the tokens between alone; `baseline` says by what.
        with_state: B, a probe that has the state, too.
        model: C, the model with everything.
        surplus: A - B.
        recovered: (A - B) / (A - C).
        top1_agreement: how often the probe's likeliest token is the model's: what a draft could have accepted.
        top1_without: the same of the probe without a state.
    """

    layer: int
    offset: int
    without: Estimate
    baseline: str
    with_state: Estimate
    model: Estimate
    surplus: Estimate
    recovered: float
    top1_agreement: Estimate
    top1_without: Estimate


@dataclass(frozen=True)
class Alignment:
    """Of one layer.

    Attributes:
        layer: whose states.
        rho: share of what tells contexts apart in their predictions that states hold linearly, on held-out contexts.
        cka: linear centred kernel alignment.
        null: rho with contexts permuted: mean and largest.
        untrained: rho of the same architecture with weights drawn by chance; None: not measured.
    """

    layer: int
    rho: float
    cka: float
    null: tuple[float, float]
    untrained: float | None


@dataclass(frozen=True)
class MarkovReport:
    """What was found.

    Attributes:
        model: its name.
        texts, tokens: measured on.
        entropy: mean by divergence.
        loss: mean negative log-likelihood, nats per token.
        calibration_gap: loss minus Shannon's entropy.
        by_place: (place, entropy, loss) means over bands of the window.
        surplus: rows by layer and offset.
        draft_length: the largest offset up to which the last layer's state holds at least 0.3 of what the past tells.
        geometry: numbers of the mean pullback metric; None where it was not measured.
        directions: [k, d] its leading eigenvectors.
        alignment: by layer.
        kernel, source: of the alignment.
        spectrum: leading eigenvalues of the similarity operator.
        dirichlet: energies of projections on the metric's leading, on chance, and on its last directions.
    """

    model: str
    texts: int
    tokens: int
    entropy: dict[str, Estimate]
    loss: Estimate
    calibration_gap: Estimate
    by_place: list[tuple[int, float, float]]
    surplus: list[SurplusRow] = field(default_factory=list)
    draft_length: int | None = None
    geometry: dict[str, float] | None = None
    directions: list[list[float]] = field(default_factory=list)
    alignment: list[Alignment] = field(default_factory=list)
    kernel: str | None = None
    source: str | None = None
    spectrum: list[float] = field(default_factory=list)
    dirichlet: dict[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """As JSON knows it, without the directions."""
        found = asdict(self)
        del found["directions"]
        return found

    def to_json(self) -> str:
        """One line."""
        return json.dumps(self.as_dict())

    def to_html(self) -> str:
        """A self-contained page with pictures."""
        from szilard.analysis.markov_lm.page import to_html

        return to_html(self)


def markov_report(
    engine: Any,
    texts: Sequence[str | Sequence[int]],
    *,
    horizon: int = 4,
    layers: Sequence[int] = (-1,),
    kernel: str = "prototype",
    beta: float = 1.0,
    similarity_source: Any = "self",
    probes: bool = True,
    geometry: bool = True,
    untrained: bool = False,
    window: int = 512,
    positions: int = 20_000,
    contexts: int = 1_000,
    permutations: int = 20,
    probe_config: ProbeConfig | None = None,
    folder: Path | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> MarkovReport:
    """Measure a model on texts.

    Args:
        engine: a loaded model; one that gives hidden states for all but the entropies.
        texts: documents, as text or ids; standard errors are over them.
        horizon: K: the surplus is about tokens 1 .. K - 1 beyond the next one.
        layers: whose hidden states, as in `hidden_states`: -1 is what the head reads.
        kernel: of the similarity of predictions; see `predictive_similarity`. "prototype" has rows of the head, brought
            to length 1, as in the paper's theory.
        beta: of kernels that are exponentials.
        similarity_source: whose predictions say what is alike: "self" (partly circular), "next-token" (the token that
            came, for the prototype kernel), or another engine with the same vocabulary, a teacher.
        probes: measure the surplus; trains 2 x layers x (K - 1) probes, minutes to hours.
        geometry: measure geometry and alignment.
        untrained: measure the alignment of the architecture with weights drawn by chance, too.
        window: tokens of a stretch of text.
        positions: whose hidden states are kept, at most.
        contexts: of these, whose whole distributions are kept.
        permutations: of contexts, for the alignment's null.
        probe_config: settings of the probes.
        folder: of the probes' checkpoints: a killed run goes on; None: thrown away.
        seed: of draws and probes.
        progress: told stretches done and in all.

    Returns:
        The report.

    Raises:
        ValueError: texts too short, a setting out of range, or an engine that has not what is asked for.
    """
    check_number("horizon", horizon, low=2, high=16, integer=True)
    for name, value in (("window", window), ("positions", positions), ("contexts", contexts)):
        check_number(name, value, low=4, integer=True)
    check_number("permutations", permutations, low=0, integer=True)
    check_choice("kernel", kernel, KERNELS)
    for name, value in (("probes", probes), ("geometry", geometry), ("untrained", untrained)):
        check_bool(name, value)
    if isinstance(similarity_source, str):
        check_choice("similarity_source", similarity_source, ("self", "next-token"))
        if similarity_source == "next-token" and kernel != "prototype":
            raise ValueError("the token that came is one draw of the prediction: it goes with kernel='prototype' only.")
    model, looks = _model_of(engine), probes or geometry
    if looks and model is None:
        raise ValueError(
            f"{engine.name} gives no hidden states, so surplus, geometry and alignment cannot be measured on it: set "
            "probes=False and geometry=False (--no-probes --no-geometry) for its entropies, or load it by transformers."
        )
    rows = [list(engine.tokenizer.encode(one) if isinstance(one, str) else one) for one in texts]
    limit = engine.context_window
    stretches = windows(rows, min(window, limit) if limit else window)
    if not stretches:
        raise ValueError("there is no text of at least 4 tokens to measure on.")
    vocabulary = min(len(engine.tokenizer), engine.vocab_size)
    if model is None:
        return _entropies_alone(engine, stretches, len(rows), vocabulary, progress)
    if looks:
        depth = len(_hidden_of(model, stretches[0][1]))
        for layer in layers:
            check_number("layers", layer, low=-depth, high=depth - 1, integer=True)
    if probes and len({number for number, ids in stretches if len(ids) > horizon + 1}) < 3:
        raise ValueError(
            "probes are tested on texts of their own: give at least 3 texts longer than horizon + 1 tokens."
        )
    head = linear_head(model) if looks else None
    teacher = None if isinstance(similarity_source, str) else _teacher(similarity_source, vocabulary)
    found = collect(
        model,
        stretches,
        divergences=_MEASURED,
        horizon=horizon,
        layers=tuple(layers) if looks else (),
        kept=positions if probes else contexts,
        contexts=contexts if geometry else 0,
        head=head if geometry else None,
        vocabulary=vocabulary,
        seed=seed,
        progress=None if progress is None else lambda done: progress(done, len(stretches)),
    )
    values: dict[str, Any] = {}
    if geometry:
        assert head is not None
        if found.positions is None or found.contexts is None or len(found.contexts) < 8:
            raise ValueError("the texts have fewer than 8 contexts for the alignment: give more, or geometry=False.")
        values |= _geometry(found, head[:vocabulary].float().cpu())
        draws: dict[str, Any] = {"horizon": horizon, "contexts": contexts, "seed": seed}
        draws["kept"] = positions if probes else contexts
        values |= _alignment(
            found,
            head[:vocabulary].float().cpu(),
            layers,
            kernel=kernel,
            beta=beta,
            source=similarity_source if teacher is None else teacher.name,
            taught=None if teacher is None else _taught(teacher, stretches, vocabulary, draws),
            untrained=_untrained(model, stretches, layers, draws) if untrained else None,
            permutations=permutations,
            directions=values["directions"],
            seed=seed,
        )
    if probes:
        assert head is not None
        values |= _surplus(
            engine, model, found, head[:vocabulary], layers, horizon, probe_config, folder, vocabulary, seed
        )
    return _report(engine.name, len(rows), found, values)


def _report(name: str, texts: int, found: Collected, values: dict[str, Any]) -> MarkovReport:
    gap = found.nll - found.entropy["kl"]
    bands = [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048]
    by_place = []
    for low, high in zip(bands, [*bands[1:], 1 << 40], strict=True):
        inside = (found.place >= low) & (found.place < high)
        if bool(inside.any()):
            by_place.append((low, float(found.entropy["kl"][inside].mean()), float(found.nll[inside].mean())))
    return MarkovReport(
        model=name,
        texts=texts,
        tokens=len(found.nll),
        entropy={one: by_document(value, found.document) for one, value in found.entropy.items()},
        loss=by_document(found.nll, found.document),
        calibration_gap=by_document(gap, found.document),
        by_place=by_place,
        **values,
    )


def _model_of(engine: Any) -> Any:
    model = getattr(engine, "model", None)
    return model if model is not None and hasattr(model, "get_output_embeddings") else None


def _hidden_of(model: Any, ids: Sequence[int]) -> Any:
    with torch.no_grad():
        seen = model(
            input_ids=torch.tensor([list(ids[:4])], device=model.device), output_hidden_states=True, use_cache=False
        )
    return seen.hidden_states


def _teacher(engine: Any, vocabulary: int) -> Any:
    if _model_of(engine) is None:
        raise ValueError("similarity_source must be 'self', 'next-token', or an engine loaded by transformers.")
    if min(len(engine.tokenizer), engine.vocab_size) != vocabulary:
        raise ValueError(
            f"the teacher {engine.name} has {min(len(engine.tokenizer), engine.vocab_size)} tokens and this model "
            f"{vocabulary}: give one with the same vocabulary."
        )
    return engine


def _entropies_alone(
    engine: Any, stretches: Any, texts: int, vocabulary: int, progress: Callable[[int, int], None] | None
) -> MarkovReport:
    """For engines that give logits only: each stretch is read once by the decoding state."""
    from szilard.information.categorical_entropy import categorical_entropy

    found = Collected()
    parts: dict[str, list[Tensor]] = {name: [] for name in (*_MEASURED, "nll", "document", "place")}
    for done, (number, ids) in enumerate(stretches):
        state = engine.state(torch.tensor(ids[:1]), max_new_tokens=len(ids) - 1, raw=True, trace=False)
        try:
            logits = [state.prefill()]
            if len(ids) > 2:
                logits.append(state.feed(torch.tensor([ids[1:-1]], device=state.device))[0])
            seen = torch.cat([one.float().cpu() for one in logits])[:, :vocabulary]
        finally:
            state.cost.stop()
            state.close()
        log_p = seen.log_softmax(-1)
        for name in _MEASURED:
            parts[name].append(categorical_entropy(log_p.exp(), name))
        parts["nll"].append(-log_p.gather(1, torch.tensor(ids[1:]).unsqueeze(1)).squeeze(1))
        parts["document"].append(torch.full((len(ids) - 1,), number))
        parts["place"].append(torch.arange(len(ids) - 1))
        if progress is not None:
            progress(done + 1, len(stretches))
    joined = {name: torch.cat(value) for name, value in parts.items()}
    found.entropy = {name: joined[name] for name in _MEASURED}
    found.nll, found.document, found.place = joined["nll"], joined["document"], joined["place"]
    return _report(engine.name, texts, found, {})


def _geometry(found: Collected, head: Tensor) -> dict[str, Any]:
    """Numbers and leading directions of E[g*] = U^T diag(E p) U - E[u_bar u_bar^T]."""
    assert found.mass is not None and found.outer is not None
    u = head.double()
    metric = (u.T * found.mass) @ u - found.outer
    values, vectors = torch.linalg.eigh(metric)
    numbers = spectrum_numbers(metric)
    numbers["trace_per_dimension"] = numbers["trace"] / len(metric)
    order = values.argsort(descending=True)
    kept = torch.cat([order[:_DIRECTIONS], order[-_DIRECTIONS:]]) if len(order) > 2 * _DIRECTIONS else order
    return {"geometry": numbers, "directions": vectors[:, kept].T.tolist()}


def _taught(teacher: Any, stretches: Any, vocabulary: int, draws: dict[str, Any]) -> Tensor:
    """The teacher's distributions at the same contexts: which they are depends on lengths and seed alone."""
    found = collect(
        _model_of(teacher), stretches, divergences=(), layers=(0,), head=None, vocabulary=vocabulary, **draws
    )
    assert found.contexts is not None
    return found.contexts


def _untrained(model: Any, stretches: Any, layers: Sequence[int], draws: dict[str, Any]) -> dict[int, Tensor]:
    """Hidden states of the same architecture with weights drawn by chance, at the same contexts."""
    with own_chance(draws["seed"]):
        fresh = type(model)(model.config).to(model.device).float().eval()
    size = model.config.get_text_config().vocab_size
    found = collect(fresh, stretches, divergences=(), layers=layers, head=None, vocabulary=size, **draws)
    assert found.positions is not None and found.context_rows is not None
    return {layer: found.positions.hidden[layer][found.context_rows] for layer in layers}


def _alignment(
    found: Collected,
    head: Tensor,
    layers: Sequence[int],
    *,
    kernel: str,
    beta: float,
    source: Any,
    taught: Tensor | None,
    untrained: dict[int, Tensor] | None,
    permutations: int,
    directions: list[list[float]],
    seed: int,
) -> dict[str, Any]:
    assert found.positions is not None and found.contexts is not None and found.context_rows is not None
    rows = found.context_rows
    prototypes = torch.nn.functional.normalize(head, dim=1)
    if source == "next-token":
        vectors = prototypes[found.positions.following[rows, 0]]
        gram = vectors @ vectors.T
    else:
        p = (found.contexts if taught is None else taught).float()
        p = p / p.sum(-1, keepdim=True)
        if kernel == "prototype":
            vectors = p @ prototypes
            gram = vectors @ vectors.T
        else:
            gram = predictive_similarity(p, kernel, beta=beta)
            vectors = gram
    own = kernel == "prototype"
    chance = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(len(rows), generator=chance) for _ in range(permutations)]
    aligned = []
    for layer in layers:
        h = found.positions.hidden[layer][rows].float()

        def rho(states: Tensor) -> float:
            return spectral_alignment(states, vectors, prototypes=own, seed=seed)

        null = [rho(h[order]) for order in orders]
        aligned.append(
            Alignment(
                layer,
                rho(h),
                linear_cka(h, gram),
                (sum(null) / len(null), max(null)) if null else (0.0, 0.0),
                None if untrained is None else rho(untrained[layer].float()),
            )
        )
    last = found.positions.hidden[layers[-1]][rows].double()
    axes = torch.tensor(directions, dtype=torch.float64)
    half = len(axes) // 2
    drawn = torch.nn.functional.normalize(torch.randn(64, axes.shape[1], generator=chance, dtype=torch.float64), dim=1)
    energy = {
        name: float(dirichlet_energy(gram, last @ chosen.T).mean())
        for name, chosen in (("leading", axes[:half]), ("chance", drawn), ("last", axes[half:]))
        if len(chosen)
    }
    return {
        "alignment": aligned,
        "kernel": kernel,
        "source": source,
        "spectrum": operator_spectrum(gram)[:64].tolist(),
        "dirichlet": energy,
    }


def _surplus(
    engine: Any,
    model: Any,
    found: Collected,
    head: Tensor,
    layers: Sequence[int],
    horizon: int,
    config: ProbeConfig | None,
    folder: Path | None,
    vocabulary: int,
    seed: int,
) -> dict[str, Any]:
    seen = found.positions
    if seen is None:
        raise ValueError(f"no text is longer than {horizon + 1} tokens, so nothing follows: give longer texts.")
    config = ProbeConfig(seed=seed, log_every=20) if config is None else config
    parts = split_documents(seen.document, seed)
    tested, document = parts["tested"], seen.document[parts["tested"]]
    embeddings = model.get_input_embeddings().weight.detach()[:vocabulary]
    begin = engine.tokenizer.bos_token_id
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch) if folder is None else folder
        for offset in range(1, horizon):
            tokens, target = seen.following[:, :offset], seen.following[:, offset]
            shared = (tokens, target, parts, embeddings, head)
            blind, blind_best = train_probe(
                seen.hidden[layers[0]], *shared, place / f"offset-{offset}-blind", config, sees=False
            )
            candidates = {
                "probe": blind,
                "model on the window": window_losses(model, tokens[tested], target[tested], begin, vocabulary),
                "bigram": bigram_losses(tokens[:, -1], target, parts, vocabulary),
            }
            name, without = chosen_baseline(candidates)
            whole = seen.nll[tested, offset]
            wanted = seen.greedy[tested, offset]
            for layer in layers:
                loss, best = train_probe(
                    seen.hidden[layer], *shared, place / f"offset-{offset}-layer{layer}", config, sees=True
                )
                rows.append(
                    SurplusRow(
                        layer=layer,
                        offset=offset,
                        without=by_document(without, document),
                        baseline=name,
                        with_state=by_document(loss, document),
                        model=by_document(whole, document),
                        surplus=by_document(without - loss, document),
                        recovered=float((without - loss).mean() / (without - whole).mean()),
                        top1_agreement=by_document((best == wanted).float(), document),
                        top1_without=by_document((blind_best == wanted).float(), document),
                    )
                )
    last = [row.recovered for row in rows if row.layer == layers[-1]]
    return {"surplus": rows, "draft_length": useful_draft_length(last)}
