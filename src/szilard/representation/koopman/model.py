"""A Koopman model: states are encoded, move by a matrix, and are decoded; a rollout never encodes again.

Cheng, Yuan, Yang, Zhang, Cheng, He, Sun, "Information Shapes Koopman Representation", ICLR 2026, arXiv:2510.13025.

    z_n = encoder(x_n) in R^d        z_{n+1} = K z_n (+ B a_n)        x^_n = decoder(z_n)

K is either learned by gradient, or, as in the published code, the ridge regression of the encodings of a batch, which
takes no gradient; the operator of the trained encoder is then fitted once and kept.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from szilard.options import check_bool, check_choice, check_number
from szilard.representation.koopman.networks import ConvDecoder, ConvEncoder, mlp

OPERATORS = ("ridge", "learned")
RIDGE = 0.1  # lambda of the published trainer


class InformationKoopman(nn.Module, PyTorchModelHubMixin):
    """A Koopman autoencoder, or a variational one.

    Args:
        state: shape of a state: [n], or [channels, size, size] for pictures.
        latent_dim: d.
        hidden: width of the networks; of the first convolution for pictures.
        layers: hidden layers of the networks for vectors.
        operator: "ridge" or "learned".
        variational: the encoder gives a mean and a variance.
        controls: width of a_n; 0: no control. Needs a learned operator.
        encoder, decoder: networks of one's own, [N, *state] -> [N, d (2 d where variational)] and back. They are not
            written to the config: give them to `from_pretrained`, too.
    """

    mean: Tensor
    spread: Tensor

    def __init__(
        self,
        state: Sequence[int],
        latent_dim: int = 32,
        *,
        hidden: int = 128,
        layers: int = 2,
        operator: str = "ridge",
        variational: bool = False,
        controls: int = 0,
        encoder: nn.Module | None = None,
        decoder: nn.Module | None = None,
    ) -> None:
        super().__init__()
        for name, value in (("latent_dim", latent_dim), ("hidden", hidden), ("layers", layers)):
            check_number(name, value, low=1, integer=True)
        check_number("controls", controls, low=0, integer=True)
        check_choice("operator", operator, OPERATORS)
        check_bool("variational", variational)
        for name, network in (("encoder", encoder), ("decoder", decoder)):
            if network is not None and not isinstance(network, nn.Module):
                raise TypeError(f"{name} must be a torch module or None, not a {type(network).__name__}.")
        if controls and operator == "ridge":
            raise ValueError("a model with controls needs operator='learned': the regression knows no controls.")
        sizes: list[int] = list(state) if isinstance(state, (list, tuple)) else []
        if len(sizes) not in (1, 3):
            raise ValueError(f"state must be [n] or [channels, size, size], not {state!r}.")
        for size in sizes:
            check_number("state", size, low=1, integer=True)
        self.state = tuple(sizes)
        if len(self.state) == 3 and (self.state[1] != self.state[2] or self.state[1] % 16):
            raise ValueError(f"pictures must be square, with a side that is a multiple of 16, not {list(self.state)}.")
        self.latent_dim, self.operator_kind, self.variational = latent_dim, operator, variational
        self.controls = controls
        out = latent_dim * (2 if variational else 1)
        if len(self.state) == 1:
            size = self.state[0]
            encoder = encoder or mlp([size, *[hidden] * layers, out])
            decoder = decoder or mlp([latent_dim, *[hidden] * layers, size])
        else:
            encoder = encoder or ConvEncoder(self.state[0], self.state[1], out, hidden)
            decoder = decoder or ConvDecoder(self.state[0], self.state[1], latent_dim, hidden)
        self.encoder, self.decoder = encoder, decoder
        # The row convention of the code: z' = z C with C = K^T.
        self.forward_matrix = nn.Parameter(torch.eye(latent_dim), requires_grad=operator == "learned")
        self.control_matrix = nn.Parameter(torch.zeros(controls, latent_dim)) if controls else None
        self.log_noise = nn.Parameter(torch.zeros(latent_dim)) if variational else None  # log diag Sigma
        channels = (self.state[0],) if len(self.state) == 1 else (self.state[0], 1, 1)
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("spread", torch.ones(channels))

    @property
    def operator(self) -> Tensor:
        """K [d, d], columns: z_{n+1} = K z_n."""
        return self.forward_matrix.T

    def standardise(self, trajectories: Tensor) -> None:
        """Take mean and standard deviation of each channel of [S, T, *state], as states are scaled by from now on.

        Raises:
            ValueError: a channel that does not move.
        """
        dims = [place for place in range(trajectories.dim()) if place != 2]
        spread = trajectories.float().std(dims)
        least = 1e-7 * trajectories.float().abs().amax(dims).clamp(min=1e-30)
        flat = ~(spread > least)  # of a single number it is NaN
        if bool(flat.any()):
            raise ValueError(f"channel {int(flat.int().argmax())} of the trajectories is constant: leave it out.")
        self.mean.copy_(trajectories.float().mean(dims).view_as(self.mean))
        self.spread.copy_(spread.view_as(self.spread))

    def encode(self, states: Tensor) -> Tensor:
        """[..., *state] -> [..., d], the mean where variational."""
        return self.encode_distribution(states)[0]

    def encode_distribution(self, states: Tensor) -> tuple[Tensor, Tensor | None]:
        """Mean [..., d] and log variance [..., d] (None where the encoder is deterministic).

        Raises:
            ValueError: states of another shape, or an encoder of one's own that gives another width.
        """
        lead = states.shape[: max(0, states.dim() - len(self.state))]
        if tuple(states.shape[len(lead) :]) != self.state:
            raise ValueError(f"states must be [.., {', '.join(map(str, self.state))}], not {list(states.shape)}.")
        scaled = (states - self.mean) / self.spread
        found = self.encoder(scaled.reshape(-1, *self.state))
        width = self.latent_dim * (2 if self.variational else 1)
        if found.shape[1:] != (width,):
            raise ValueError(f"the encoder must give [N, {width}], not {list(found.shape)}.")
        found = found.view(*lead, width)
        if not self.variational:
            return found, None
        mean, log_variance = found.chunk(2, dim=-1)
        return mean, log_variance.clamp(-12.0, 6.0)

    def decode(self, latents: Tensor) -> Tensor:
        """[..., d] -> [..., *state]."""
        return self.decode_scaled(latents) * self.spread + self.mean

    def decode_scaled(self, latents: Tensor) -> Tensor:
        """[..., d] -> [..., *state], standardised: what is trained on.

        Raises:
            ValueError: a decoder of one's own that gives another shape.
        """
        found = self.decoder(latents.reshape(-1, self.latent_dim))
        if tuple(found.shape[1:]) != self.state:
            raise ValueError(f"the decoder must give [N, {', '.join(map(str, self.state))}], not {list(found.shape)}.")
        return found.view(*latents.shape[:-1], *self.state)

    def step(self, latents: Tensor, controls: Tensor | None = None) -> Tensor:
        """z_{n+1} of z_n [..., d] and a_n [..., controls]."""
        moved = latents @ self.forward_matrix
        if self.control_matrix is None:
            return moved
        if controls is None:
            raise ValueError(f"this model has {self.controls} controls: give them for every step.")
        return moved + controls @ self.control_matrix

    @torch.no_grad()
    def rollout(self, start: Tensor, steps: int, controls: Tensor | None = None) -> Tensor:
        """The next states, from the encoding of the first alone.

        Args:
            start: [B, *state].
            steps: how many.
            controls: [B, steps, controls] for a model with controls.

        Returns:
            [B, steps, *state].

        Raises:
            ValueError: another shape, or states that are no numbers.
        """
        check_number("steps", steps, low=1, integer=True)
        if not isinstance(start, Tensor):
            raise TypeError(f"the first states must be a tensor, not a {type(start).__name__}.")
        if tuple(start.shape[1:]) != self.state or not len(start):
            raise ValueError(f"states must be [batch, {', '.join(map(str, self.state))}], not {list(start.shape)}.")
        if not bool(torch.isfinite(start).all()):
            raise ValueError("the first states must be finite.")
        if controls is not None and not self.controls:
            raise ValueError("this model takes no controls: give none.")
        if controls is not None and tuple(controls.shape) != (len(start), steps, self.controls):
            raise ValueError(
                f"controls must be [{len(start)}, {steps}, {self.controls}] for this model and start, not "
                f"{list(controls.shape)}."
            )
        latent, path = self.encode(start.float().to(self.mean.device)), []
        for at in range(steps):
            latent = self.step(latent, None if controls is None else controls[:, at])
            path.append(latent)
        return self.decode(torch.stack(path, 1))

    @torch.no_grad()
    def fit_operator(self, trajectories: Tensor, window: int, ridge: float = RIDGE) -> None:
        """Set the operator to the mean of the ridge regressions of all windows, with the encoder as it is.

        # Paper's code: averages the operators of an epoch's batches while the weights move; here: those of the final
        # weights, so that the operator belongs to its encoder. Windows overlap by half, which tells no more than all of
        # them do and costs an eighth.

        Args:
            trajectories: [S, T, *state].
            window: steps of a window.
            ridge: lambda.
        """
        check_number("window", window, low=1, high=max(1, trajectories.shape[1] - 1), integer=True)
        latents = torch.stack([self.encode(one.to(self.mean.device)) for one in trajectories.float()])
        pairs = latents.unfold(1, window + 1, max(1, window // 2)).permute(0, 1, 3, 2).flatten(0, 1)
        self.forward_matrix.copy_(ridge_operator(pairs[:, :-1], pairs[:, 1:], ridge))

    def eigenvalues(self) -> Tensor:
        """[d] complex, of K, by falling modulus; growth per step |lambda|, turns arg(lambda)."""
        values = torch.linalg.eigvals(self._finite_operator())
        return values[values.abs().argsort(descending=True)]

    def modes(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues [d] and eigenvectors of K as columns [d, d], both complex, by falling modulus."""
        values, vectors = torch.linalg.eig(self._finite_operator())
        order = values.abs().argsort(descending=True)
        return values[order], vectors[:, order]

    def _finite_operator(self) -> Tensor:
        found = self.operator.detach().double()
        if not bool(torch.isfinite(found).all()):
            raise ValueError("the operator holds numbers that are none: the training went wrong; lower learning_rate.")
        return found

    def fit(self, trajectories: Any, folder: Any = None, **settings: Any) -> Any:
        """Train on [S, T, *state]; see `training.train_koopman`. Without a folder, checkpoints are thrown away."""
        from szilard.representation.koopman.training import fit_model

        return fit_model(self, trajectories, folder, **settings)


def ridge_operator(before: Tensor, after: Tensor, ridge: float = RIDGE) -> Tensor:
    """mean_b (Z_b^T Z_b + lambda I)^{-1} Z_b^T Z'_b, [d, d], rows: z' = z C. No gradient runs through it.

    Where a sequence is shorter than d, the dual form (Z_b Z_b^T + lambda I)^{-1} gives the same in less time.

    Args:
        before, after: Z and Z', [B, T, d].
        ridge: lambda, above 0 where T < d.

    Raises:
        ValueError: other shapes, or latents without a ridge of which some directions are never used.
    """
    check_number("ridge", ridge, low=0)
    if before.dim() != 3 or before.shape != after.shape or not before.numel():
        raise ValueError(f"latents must both be [B, T, d], not {list(before.shape)} and {list(after.shape)}.")
    z, following = before.detach().double(), after.detach().double()
    length, width = z.shape[1:]
    if length >= width:
        gram = z.transpose(1, 2) @ z + ridge * torch.eye(width, dtype=z.dtype, device=z.device)
        found, failed = torch.linalg.solve_ex(gram, z.transpose(1, 2) @ following)
    else:
        gram = z @ z.transpose(1, 2) + ridge * torch.eye(length, dtype=z.dtype, device=z.device)
        found, failed = torch.linalg.solve_ex(gram, following)
        found = z.transpose(1, 2) @ found
    if not ridge and (length < width or bool(failed.any())):
        raise ValueError("without a ridge the latents of a window must use all directions: give a ridge above 0.")
    return found.mean(0).to(before.dtype)


def turns_per_second(eigenvalues: Tensor, seconds: float) -> Tensor:
    """Frequencies of modes, 1 / s, for steps of so many seconds."""
    return eigenvalues.angle() / (2 * math.pi * seconds)
