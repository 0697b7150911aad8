"""The simulation study: does a network that predicts hidden observations carry the concepts linearly?

Liu et al., "I Predict Therefore I Am", ICLR 2026, arXiv:2503.08980. A context x is what is visible of the observations
of a `ConceptWorld`; a hidden one is predicted (the analogue of the next token) from f_x, which an MLP makes of x:

    p(o_j = v | x) = softmax_v( f_x^T f_{j,v} ),   f_x [d], f_{j,v} [n, 2, d]

Then a linear classifier reads each concept c_k from f_x on contexts that it has not seen, and a linear regression its
log-odds log p(c_k = 1|x) - log p(c_k = 0|x), which are exact. What x itself tells bounds the accuracy (`bayes`).
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from szilard.options import check_number
from szilard.representation.concept_sae.planted import ConceptWorld, masks
from szilard.representation.concept_sae.training import check_device
from szilard.training.config import TrainingConfig, setting
from szilard.training.loop import fit
from szilard.whole_folder import as_folder


@dataclass(frozen=True)
class SimulationConfig(TrainingConfig):
    """Settings of the predictor; (inferred), the paper's could not be read."""

    epochs: float = setting(20.0, "Passes over the contexts.")
    batch_size: int = setting(256, "Contexts per step.")
    learning_rate: float = setting(2e-3, "Largest learning rate of AdamW.")
    contexts: int = setting(20_000, "Contexts to train on.")
    tested: int = setting(4_000, "Contexts to read concepts from, half of them to fit the readers.")
    width: int = setting(128, "Of the MLP's two hidden layers.")
    feature_dim: int = setting(32, "d: numbers of f_x.")
    hidden_share: float = setting(0.25, "Share of the observations that are hidden and predicted.")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("contexts", "width", "feature_dim"):
            check_number(name, getattr(self, name), low=1, integer=True)
        check_number("tested", self.tested, low=40, integer=True)
        check_number("hidden_share", self.hidden_share, low=0.01, high=0.99)


class MaskedPredictor(nn.Module):
    """f_x of the visible observations, and the softmax over a hidden one's two values.

    Args:
        observed: n.
        config: sizes, and the seed of the weights.
    """

    def __init__(self, observed: int, config: SimulationConfig) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.body = nn.Sequential(
                nn.Linear(2 * observed, config.width),
                nn.GELU(),
                nn.Linear(config.width, config.width),
                nn.GELU(),
                nn.Linear(config.width, config.feature_dim),
            )
            self.tokens = nn.Parameter(torch.randn(observed, 2, config.feature_dim) * config.feature_dim**-0.5)

    def features(self, observations: Tensor, visible: Tensor) -> Tensor:
        """f_x [N, d] of [N, n] observations and bool [N, n]: what is hidden is not looked at."""
        shown = visible.to(self.tokens.dtype)
        signs = (2 * observations.to(self.tokens.dtype) - 1) * shown
        return self.body(torch.cat([signs, shown], dim=1))

    def forward(self, observations: Tensor, visible: Tensor) -> dict[str, Tensor]:
        """ "loss": mean -log p(o_j|x) over the hidden observations, in nats."""
        hidden = ~visible
        logits = torch.einsum("bd,nvd->bnv", self.features(observations, visible), self.tokens)
        return {"loss": F.cross_entropy(logits[hidden], observations[hidden])}


class Contexts(Dataset[tuple[Tensor, Tensor]]):
    """Observations [N, n] and what of them is visible, bool [N, n]."""

    def __init__(self, observations: Tensor, visible: Tensor) -> None:
        self.observations, self.visible = observations, visible

    def __len__(self) -> int:
        return len(self.observations)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.observations[index], self.visible[index]

    @staticmethod
    def collate(examples: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
        """{"observations": [B, n], "visible": [B, n]}."""
        observations, visible = zip(*examples, strict=True)
        return {"observations": torch.stack(observations), "visible": torch.stack(visible)}


@dataclass(frozen=True)
class SimulationResult:
    """How linear the concepts are in f_x.

    Attributes:
        accuracy: of a linear classifier of each concept on contexts that it has not seen, [m].
        bayes: of the exact posterior on the same contexts, [m].
        majority: of the more frequent value, [m].
        log_odds_share: R^2 of the log-odds of each concept from f_x, on contexts not seen, [m].
        epsilon: mean of 1 - max_c p(c|x,y), x and y being all observations.
        loss: the predictor's on the last log line, nats per hidden observation.
    """

    accuracy: tuple[float, ...]
    bayes: tuple[float, ...]
    majority: tuple[float, ...]
    log_odds_share: tuple[float, ...]
    epsilon: float
    loss: float


def simulate(
    world: ConceptWorld,
    folder: Path | str | None = None,
    config: SimulationConfig | None = None,
    *,
    resume: bool = True,
    device: torch.device | str | None = None,
) -> SimulationResult:
    """Train a predictor on contexts of a world, and read the concepts from it.

    Args:
        world: see `ConceptWorld.random`; needs two observations at least.
        folder: for checkpoints and metrics: a run that was stopped goes on. None: nothing is left on disk.
        config: the settings.
        resume: False: forget an earlier run.
        device: None: what there is.

    Raises:
        TypeError: no world, no such config, or no path.
        ValueError: a device that is none, a world with one observation, or a concept with one value only among the
            contexts.
        ImportError: scikit-learn is not installed.
    """
    config = SimulationConfig() if config is None else config
    if not isinstance(world, ConceptWorld):
        raise TypeError(f"world must be a ConceptWorld, as ConceptWorld.random draws one, not {type(world).__name__}.")
    if not isinstance(config, SimulationConfig):
        raise TypeError(f"config must be a SimulationConfig, not {type(config).__name__}.")
    check_device(device)
    if folder is None:
        with tempfile.TemporaryDirectory() as scratch:
            return simulate(world, Path(scratch), config, device=device)
    observed = world.table.shape[1]
    if observed < 2:
        raise ValueError("a world needs two observations at least: one to see, one to predict.")
    _, observations = world.sample(config.contexts, seed=config.seed)
    visible = masks(config.contexts, observed, config.hidden_share, seed=config.seed + 1)
    predictor = MaskedPredictor(observed, config)
    rows = fit(
        predictor,
        Contexts(observations, visible),
        config,
        as_folder(folder),
        collate=Contexts.collate,
        resume=resume,
        device=device,
    )
    predictor.cpu().eval()
    concepts, tested = world.sample(config.tested, seed=config.seed + 2)
    shown = masks(config.tested, observed, config.hidden_share, seed=config.seed + 3)
    log_posteriors = world.log_posteriors(world.log_joint_posterior(tested, shown))  # [N, m, 2]
    with torch.no_grad():
        features = predictor.features(tested, shown)
    whole = world.log_joint_posterior(tested, torch.ones_like(shown))
    accuracy, shares = linear_readability(features, concepts, log_posteriors)
    half = config.tested // 2
    best = log_posteriors.argmax(-1)[half:] == concepts[half:]
    ones = concepts[half:].double().mean(0)
    return SimulationResult(
        accuracy=accuracy,
        bayes=tuple(best.double().mean(0).tolist()),
        majority=tuple(torch.maximum(ones, 1 - ones).tolist()),
        log_odds_share=shares,
        epsilon=float((1 - whole.exp().amax(1)).mean()),
        loss=rows[-1]["loss"],
    )


def linear_readability(
    features: Tensor, concepts: Tensor, log_posteriors: Tensor
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Accuracy of each concept, and R^2 of its log-odds, read linearly; fitted on the first half, told of the second.

    Args:
        features: f_x [N, d].
        concepts: [N, m], 0 or 1.
        log_posteriors: log p(c_k = v|x) [N, m, 2].

    Raises:
        ValueError: shapes that do not match, or a concept with one value only in the first half.
        ImportError: scikit-learn is not installed.
    """
    try:
        from sklearn.linear_model import LinearRegression, LogisticRegression
    except ImportError:
        raise ImportError("reading concepts needs the package scikit-learn: pip install 'szilard[eval]'") from None
    count, m = concepts.shape
    if len(features) != count or log_posteriors.shape != (count, m, 2):
        raise ValueError(
            f"features [N, d], concepts [N, m] and log_posteriors [N, m, 2] must match, not {list(features.shape)}, "
            f"{list(concepts.shape)} and {list(log_posteriors.shape)}."
        )
    half = count // 2
    x: Any = features.double().numpy()
    x = (x - x[:half].mean(0)) / np.maximum(x[:half].std(0), 1e-9)
    accuracy, shares = [], []
    for k in range(m):
        labels = concepts[:, k].numpy()
        if len(set(labels[:half].tolist())) < 2:
            raise ValueError(f"concept {k} has one value only among {half} contexts: give more of them.")
        reader = LogisticRegression(solver="newton-cholesky").fit(x[:half], labels[:half])
        accuracy.append(float(reader.score(x[half:], labels[half:])))
        odds = (log_posteriors[:, k, 1] - log_posteriors[:, k, 0]).double().numpy()
        shares.append(float(LinearRegression().fit(x[:half], odds[:half]).score(x[half:], odds[half:])))
    return tuple(accuracy), tuple(shares)
