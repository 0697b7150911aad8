"""Markov diagnostics: against chains whose numbers are known, and on a real language model. A CPU is enough.

    python benchmarks/markov_lm.py --part source                     # about 6 minutes
    python benchmarks/markov_lm.py --part smollm2 --data FOLDER      # about 12 minutes, most of them for the probes
    python benchmarks/markov_lm.py --part sensitivity --data FOLDER  # a minute
    python benchmarks/markov_lm.py --part heads --data FOLDER        # three minutes: the zoo's Medusa heads there
    python benchmarks/markov_lm.py --part answers --data FOLDER      # 15 minutes: surplus and acceptance on own answers

source: two-layer transformers of width 64 learn chains of order 1 and 2 over eight symbols, 1,500 steps; at checkpoints
their loss, entropy, calibration gap, alignment with the true predictions, and at the end the surplus by probes beside
the exact one. FOLDER holds wikitext2_test.txt and gsm8k_test.jsonl. Records go to results/markov-lm.jsonl.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from results_store import Store
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, TrainerCallback

import szilard
from szilard.analysis.markov_lm import markov_report
from szilard.analysis.markov_lm.probes import ProbeConfig
from szilard.engines import TransformersEngine
from szilard.information.categorical_entropy import categorical_entropy
from szilard.information.markov_surplus import entropy_rate, markov_surplus, next_token_information, sample_chain
from szilard.information.predictive_geometry import pullback_metric
from szilard.information.predictive_similarity import spectral_alignment
from szilard.reasoning.tasks import number_tokenizer
from szilard.speculative.medusa.heads import MedusaHeads
from szilard.training.add_on import opened
from szilard.training.config import TrainingConfig
from szilard.training.loop import fit

SYMBOLS, LENGTH, STEPS, MEASURED = 8, 64, 1500, 800
POSITIONS = 48_000  # that the probes of a chain learn from
CHECKPOINTS = (0, 50, 150, 500, 1500)
ARTICLES, TOKENS = 60, 400


class _Language(nn.Module):
    """Next-token loss of a model."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": self.model(input_ids=ids, labels=ids).loss}


class _At(TrainerCallback):
    """Calls back at some steps."""

    def __init__(self, steps: tuple[int, ...], call: Any) -> None:
        self.steps, self.call = steps, call

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step in self.steps:
            self.call(state.global_step)


def chain_of(order: int, seed: int) -> torch.Tensor:
    """P(next | the symbols before), peaked enough to be worth learning."""
    chance = torch.Generator().manual_seed(seed)
    return (2 * torch.randn(*[SYMBOLS] * (order + 1), generator=chance, dtype=torch.float64)).softmax(-1)


def source(store: Store, order: int, seed: int) -> None:
    """A small transformer on a chain of an order."""
    keys = [{"part": "source", "order": order, "seed": seed, "step": step} for step in CHECKPOINTS]
    if all(key in store for key in keys):
        return
    chain = chain_of(order, seed)
    known = {"H": entropy_rate(chain), "I next": next_token_information(chain)}
    known |= {f"surplus {k}": markov_surplus(chain, k) for k in (2, 3)}
    learned = sample_chain(chain, 4000, LENGTH, seed=seed)
    held = sample_chain(chain, MEASURED, LENGTH, seed=seed + 100)
    tokenizer = number_tokenizer(SYMBOLS - 1)
    first = tokenizer.convert_tokens_to_ids("0")
    assert tokenizer.convert_tokens_to_ids(str(SYMBOLS - 1)) == first + SYMBOLS - 1
    torch.manual_seed(seed)
    shape = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=LENGTH,
    )
    model = LlamaForCausalLM(shape)
    engine = TransformersEngine(model, tokenizer, name="small")
    texts = (held + first).tolist()

    def measure(step: int) -> None:
        key = {"part": "source", "order": order, "seed": seed, "step": step}
        if key in store:
            return
        model.eval()
        last = step == CHECKPOINTS[-1]
        settings = ProbeConfig(steps=1200, learning_rate=3e-3, save_every=100, log_every=100, hidden=128)
        report = markov_report(
            engine,
            texts if last else texts[:200],
            horizon=3,
            positions=POSITIONS,
            contexts=1000,
            permutations=5,
            probes=last,
            probe_config=settings,
            seed=seed,
        )
        values: dict[str, Any] = {
            "loss": round(report.loss.mean, 4),
            "entropy": round(report.entropy["kl"].mean, 4),
            "gap": round(report.calibration_gap.mean, 4),
            "rho with own": round(report.alignment[0].rho, 4),
            **aligned_with_truth(model, chain, held[:200] + first, first),
            "known": {name: round(value, 4) for name, value in known.items()},
        }
        if last:
            values["surplus"] = [round(row.surplus.mean, 4) for row in report.surplus]
            values["surplus error"] = [round(row.surplus.error, 4) for row in report.surplus]
            values["probes"] = [
                {
                    "A": round(row.without.mean, 4),
                    "by": row.baseline,
                    "B": round(row.with_state.mean, 4),
                    "C": round(row.model.mean, 4),
                }
                for row in report.surplus
            ]
        store.add(key, values)
        print(key, values, flush=True)
        model.train()

    measure(0)
    with tempfile.TemporaryDirectory() as folder:
        config = TrainingConfig(
            steps=STEPS, batch_size=32, learning_rate=3e-3, save_every=STEPS, log_every=50, seed=seed
        )
        fit(
            _Language(model),
            learned + first,  # type: ignore[arg-type]
            config,
            Path(folder),
            collate=lambda rows: {"ids": torch.stack(rows)},
            device="cpu",
            callbacks=[_At(CHECKPOINTS, measure)],
        )


@torch.no_grad()
def aligned_with_truth(model: Any, chain: torch.Tensor, ids: torch.Tensor, first: int) -> dict[str, float]:
    """rho of the last states with the chain's own predictions, and with permuted ones."""
    order = chain.dim() - 1
    hidden = model(input_ids=ids, output_hidden_states=True).hidden_states[-1][:, order - 1 : -1]
    symbols = ids - first
    before = [symbols[:, at : at + hidden.shape[1]] for at in range(order)]
    truth = chain[tuple(before)].flatten(0, 1)
    chosen = torch.randperm(len(truth), generator=torch.Generator().manual_seed(0))[:2000]
    h, g = hidden.flatten(0, 1)[chosen], truth[chosen]
    shuffled = g[torch.randperm(len(g), generator=torch.Generator().manual_seed(1))]
    return {
        "rho with truth": round(spectral_alignment(h, g, prototypes=True), 4),
        "rho permuted": round(spectral_alignment(h, shuffled, prototypes=True), 4),
    }


def articles(folder: Path) -> list[str]:
    """Beginnings of articles of WikiText-2's test part."""
    text = (folder / "wikitext2_test.txt").read_text(encoding="utf-8")
    found = [part for part in text.split("\n = ") if len(part) > 1200]
    return [part[:1800] for part in found[:ARTICLES]]


def smollm2(store: Store, folder: Path) -> None:
    """The embedded model, last and earlier layers."""
    key = {"part": "smollm2", "layers": "10 20 -1"}
    if key in store:
        return
    report = markov_report(
        szilard.load(),
        articles(folder),
        horizon=4,
        layers=(10, 20, -1),
        window=TOKENS,
        positions=6000,
        contexts=1500,
        untrained=True,
        permutations=20,
        probe_config=ProbeConfig(steps=90, batch_size=128, save_every=30, log_every=30, learning_rate=1e-3),
        folder=Path("build/markov-smollm2-windows"),
    )
    values = report.as_dict()
    store.add(key, values)
    docs = Path(__file__).parent.parent / "docs" / "pictures" / "markov-smollm2.html"
    docs.write_text(report.to_html(), encoding="utf-8")
    print({name: value for name, value in values.items() if name != "spectrum"})


@torch.no_grad()
def sensitivity(store: Store, folder: Path) -> None:
    """Steps of hidden states along chance and along the leading eigenvector: divergence measured and predicted."""
    key = {"part": "sensitivity"}
    if key in store:
        return
    engine = szilard.load()
    model: Any = engine.model  # type: ignore[attr-defined]
    head = model.get_output_embeddings().weight.float()
    chance = torch.Generator().manual_seed(0)
    rows = []
    for text in articles(folder)[:12]:
        ids = torch.tensor([engine.tokenizer.encode(text)[:120]])
        h = model(input_ids=ids, output_hidden_states=True).hidden_states[-1][0, -1].float()
        metric = pullback_metric(head, h)
        leading = torch.linalg.eigh(metric)[1][:, -1]
        drawn = nn.functional.normalize(torch.randn(len(h), generator=chance), dim=0)
        log_p = (head @ h).log_softmax(0)
        for name, v in (("leading", leading), ("chance", drawn)):
            for step in (0.1, 1.0, 3.0):
                log_q = (head @ (h + step * v)).log_softmax(0)
                measured = float((log_q.exp() * (log_q - log_p)).sum())
                rows.append((name, step, measured, step**2 / 2 * float(v @ metric @ v)))
    values = {}
    for name in ("leading", "chance"):
        for step in (0.1, 1.0, 3.0):
            own = [row for row in rows if row[:2] == (name, step)]
            ratios = sorted(row[2] / row[3] for row in own)
            values[f"{name}, step {step:g}"] = {
                "divergence": sum(row[2] for row in own) / len(own),
                "measured over predicted": ratios[len(ratios) // 2],
            }
    store.add(key, values)
    print(values)


@torch.no_grad()
def heads(store: Store, folder: Path) -> None:
    """The zoo's Medusa heads on the same positions: how often a head's likeliest token is the model's own."""
    key = {"part": "heads", "heads": "smollm2-medusa"}
    if key in store:
        return
    engine = szilard.load()
    model: Any = engine.model  # type: ignore[attr-defined]
    medusa = opened(MedusaHeads, "zoo/smollm2-medusa")
    agreed: dict[int, list[float]] = {}
    for text in articles(folder)[-9:]:
        ids = torch.tensor([engine.tokenizer.encode(text)[:TOKENS]])
        out = model(input_ids=ids, output_hidden_states=True)
        greedy = out.logits.argmax(-1)[0]
        features = medusa(out.hidden_states[-1][0].to(medusa.dtype))
        logits = medusa.logits(features, model.get_output_embeddings())
        for number, guess in enumerate(logits.argmax(-1), start=1):
            agreed.setdefault(number, []).append(float((guess[:-number] == greedy[number:]).float().mean()))
    values = {f"offset {number}": sum(own) / len(own) for number, own in agreed.items()}
    store.add(key, values)
    print(values)


def answers(store: Store, folder: Path, count: int, length: int) -> None:
    """Surplus of the states by which the model writes its own answers, beside what the zoo's Medusa heads get right.

    In its own greedy text a draft is accepted where it is the text, so that the heads' acceptance by position can be
    read from one pass.
    """
    key = {"part": "answers", "heads": "smollm2-medusa", "prompts": count, "tokens": length}
    if key in store:
        return
    engine = szilard.load()
    model: Any = engine.model  # type: ignore[attr-defined]
    lines = (folder / "gsm8k_test.jsonl").read_text(encoding="utf-8").splitlines()[:count]
    asked = [json.loads(line)["question"] for line in lines]
    texts: list[list[int]] = []
    for at in range(0, count, 8):
        written = engine.generate(asked[at : at + 8], max_new_tokens=length, trace=False)
        texts += [list(engine.tokenizer.encode(one.text)) for one in written]
    medusa = opened(MedusaHeads, "zoo/smollm2-medusa")
    right: dict[int, list[float]] = {}
    accepted: dict[int, list[float]] = {}
    sure: dict[str, list[float]] = {}
    for ids in texts:
        with torch.no_grad():
            out = model(input_ids=torch.tensor([ids]), output_hidden_states=True)
            greedy = out.logits.argmax(-1)[0]
            logits = medusa.logits(medusa(out.hidden_states[-1][0].to(medusa.dtype)), model.get_output_embeddings())
        room = len(ids) - medusa.depth
        whole = torch.ones(room)
        for number, guess in enumerate(logits.argmax(-1), start=1):
            own = (guess[:room] == greedy[number : number + room]).float()
            whole = whole * own
            right.setdefault(number, []).extend(own.tolist())
            accepted.setdefault(number, []).extend(whole.tolist())
            sure.setdefault(f"head {number}", []).extend(
                categorical_entropy(logits[number - 1].float().softmax(-1)).tolist()
            )
        sure.setdefault("model", []).extend(categorical_entropy(out.logits[0].float().softmax(-1)).tolist())
    values: dict[str, Any] = {"texts": len(texts), "positions": len(right[1])}
    for name, found in (("right", right), ("accepted", accepted), ("entropy", sure)):
        values[name] = {str(of): round(sum(own) / len(own), 4) for of, own in found.items()}  # type: ignore[attr-defined]
    settings = ProbeConfig(steps=120, batch_size=128, save_every=30, log_every=30)
    for given in ("all", "nothing"):
        report = markov_report(
            engine, texts, horizon=4, positions=6000, geometry=False, given=given, probe_config=settings
        )
        values[given] = [
            {
                "offset": row.offset,
                "surplus": round(row.surplus.mean, 4),
                "error": round(row.surplus.error, 4),
                "recovered": None if row.recovered is None else round(row.recovered, 4),
                "top-1": round(row.top1_agreement.mean, 4),
            }
            for row in report.surplus
        ]
    store.add(key, values)
    print(values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("source", "smollm2", "sensitivity", "heads", "answers"), required=True)
    parser.add_argument("--data", type=Path, help="FOLDER, for all parts but source")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--prompts", type=int, default=60, help="of answers")
    parser.add_argument("--tokens", type=int, default=96, help="of an answer")
    given = parser.parse_args()
    store = Store("markov-lm")
    if given.part == "source":
        for order in (1, 2):
            source(store, order, given.seed)
        return
    if given.data is None:
        raise SystemExit("this part needs --data FOLDER")
    if given.part == "answers":
        answers(store, given.data, given.prompts, given.tokens)
        return
    {"smollm2": smollm2, "sensitivity": sensitivity, "heads": heads}[given.part](store, given.data)


if __name__ == "__main__":
    main()
