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
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from szilard.analysis.markov_lm.alignment import Alignment, alignments, mean_metric, taught, untrained_states
from szilard.analysis.markov_lm.bootstrap import Estimate, by_document
from szilard.analysis.markov_lm.collection import Collected, collect, linear_head, windows
from szilard.analysis.markov_lm.probes import GIVEN, ProbeConfig
from szilard.analysis.markov_lm.surplus import SurplusRow, surplus_rows
from szilard.information.categorical_entropy import categorical_entropy
from szilard.information.predictive_similarity import KERNELS
from szilard.options import check_bool, check_choice, check_number

_MEASURED = ("kl", "tv", "hellinger")


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
        draft_length: the largest offset up to which the state of the last of the layers holds at least 0.3 of what the
            past tells (inferred).
        geometry: numbers of the mean pullback metric; None where it was not measured.
        eigenvalues, directions: its k largest eigenvalues, and their eigenvectors [k, d].
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
    eigenvalues: list[float] = field(default_factory=list)
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
    given: str = "all",
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
        given: which tokens beyond H_t a drafter sees before it guesses W_{t+j}: "all" of W_t .. W_{t+j-1} (EAGLE),
            "next", W_t alone, or "nothing" (Medusa).
        probes: measure the surplus; trains (layers + 1) x (K - 1) probes, minutes to hours.
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
        TypeError: a setting, or texts, of another type.
        ValueError: texts too short, a setting out of range, or an engine that has not what is asked for.
    """
    check_number("horizon", horizon, low=2, high=16, integer=True)
    check_number("beta", beta, low=1e-12, high=1e12)
    check_number("seed", seed, low=0, high=2**31 - 1, integer=True)
    check_choice("given", given, GIVEN)
    if isinstance(layers, (str, int)) or not all(isinstance(one, int) for one in layers) or not layers:
        raise TypeError(f"layers must be whole numbers in a list, as in [10, -1], not {layers!r}.")
    if probe_config is not None and not isinstance(probe_config, ProbeConfig):
        raise TypeError(f"probe_config must be a ProbeConfig, not a {type(probe_config).__name__}.")
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
    teacher = None if isinstance(similarity_source, str) else _teacher(similarity_source, engine)
    vocabulary = min(len(engine.tokenizer), engine.vocab_size)
    rows = _ids(engine, texts, vocabulary)
    limits = [one.context_window for one in (engine, teacher) if one is not None and one.context_window]
    stretches = windows(rows, min([window, *limits]))
    if not stretches:
        raise ValueError("there is no text of at least 4 tokens to measure on.")
    if model is None:
        return _entropies_alone(engine, stretches, len(rows), vocabulary, progress)
    head = linear_head(model) if looks else None
    if looks:
        depth = len(_hidden_of(model, stretches[0][1]))
        for layer in layers:
            check_number("layers", layer, low=-depth, high=depth - 1, integer=True)
    if probes and len({number for number, ids in stretches if len(ids) > horizon + 1}) < 3:
        raise ValueError(
            "probes are tested on texts of their own: give at least 3 texts longer than horizon + 1 tokens."
        )
    gathered = tuple(dict.fromkeys([*layers, *([-1] if geometry else [])]))  # directions are those that the head reads
    found = collect(
        model,
        stretches,
        divergences=_MEASURED,
        horizon=horizon,
        layers=gathered if looks else (),
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
        values |= mean_metric(found, head[:vocabulary].float().cpu())
        draws: dict[str, Any] = {"horizon": horizon, "contexts": contexts, "seed": seed}
        draws["kept"] = positions if probes else contexts
        values |= alignments(
            found,
            head[:vocabulary].float().cpu(),
            layers,
            kernel=kernel,
            beta=beta,
            source=similarity_source if teacher is None else teacher.name,
            judged=None if teacher is None else taught(_model_of(teacher), stretches, vocabulary, draws),
            untrained=untrained_states(model, stretches, layers, draws) if untrained else None,
            permutations=permutations,
            directions=torch.tensor(values["directions"], dtype=torch.float64),
            last=values.pop("last"),
            seed=seed,
        )
    if probes:
        assert head is not None and found.positions is not None
        values |= surplus_rows(
            engine,
            model,
            found.positions,
            head[:vocabulary],
            layers,
            horizon,
            given=given,
            config=ProbeConfig(seed=seed, log_every=20) if probe_config is None else probe_config,
            folder=None if folder is None else Path(folder),
            seed=seed,
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


def _ids(engine: Any, texts: Sequence[str | Sequence[int]], vocabulary: int) -> list[list[int]]:
    """Texts as ids that the model has.

    Raises:
        TypeError: one text instead of several, or neither text nor ids.
        ValueError: an id that is none.
    """
    if isinstance(texts, (str, bytes)) or not hasattr(texts, "__iter__"):
        raise TypeError("texts must be a list of documents, as text or ids, not a single one.")
    rows = []
    for number, one in enumerate(texts):
        whole = isinstance(one, (str, list, tuple)) and (isinstance(one, str) or all(type(id) is int for id in one))
        if not whole:
            raise TypeError(f"text {number} must be a string or a list of token ids, not a {type(one).__name__}.")
        ids = list(engine.tokenizer.encode(one) if isinstance(one, str) else one)
        if ids and not 0 <= min(ids) <= max(ids) < vocabulary:
            raise ValueError(
                f"text {number} holds the token id {max(ids) if max(ids) >= vocabulary else min(ids)}, and "
                f"{engine.name} has 0 to {vocabulary - 1}."
            )
        rows.append(ids)
    return rows


def _teacher(teacher: Any, engine: Any) -> Any:
    if _model_of(teacher) is None:
        raise ValueError("similarity_source must be 'self', 'next-token', or an engine loaded by transformers.")
    least = min(len(engine.tokenizer), engine.vocab_size)
    if teacher.vocab_size < least or teacher.tokenizer.get_vocab() != engine.tokenizer.get_vocab():
        raise ValueError(
            f"the teacher {teacher.name} has other tokens than {engine.name}: give one with the same vocabulary."
        )
    return teacher


def _entropies_alone(
    engine: Any, stretches: Any, texts: int, vocabulary: int, progress: Callable[[int, int], None] | None
) -> MarkovReport:
    """For engines that give logits only: each stretch is read once by the decoding state."""
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
