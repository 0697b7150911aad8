"""`szilard train koopman`: a latent space in which a system moves linearly."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from szilard.cli import options as o
from szilard.cli.loading import needs, note, training_device
from szilard.cli.train_heads import ConfigOption, OutputOption, RestartOption, add_flags
from szilard.representation.koopman.config import KoopmanConfig


def koopman(
    data: Annotated[
        str, typer.Option("--data", help="Trajectories: a .npy file [sequences, time, state], or a system's name.")
    ],
    output: OutputOption,
    latent_dim: Annotated[int, typer.Option("--latent-dim", help="Dimensions of the latent space.")] = 32,
    hidden: Annotated[int, typer.Option("--hidden", help="Width of the networks.")] = 128,
    operator: Annotated[str, typer.Option("--operator", help="ridge (the published code's) or learned.")] = "ridge",
    variational: Annotated[bool, typer.Option("--variational", help="The encoder gives a variance, too.")] = False,
    sequences: Annotated[int, typer.Option("--sequences", help="Of a named system.")] = 40,
    length: Annotated[int, typer.Option("--length", help="States of each, of a named system.")] = 120,
    noise: Annotated[
        float, typer.Option("--noise", help="On what is seen of a named system, in its deviations.")
    ] = 0.0,
    pictures: Annotated[
        Path | None, typer.Option("--pictures", help="Folder for eigenvalues.svg and manifold.svg.")
    ] = None,
    config: ConfigOption = None,
    restart: RestartOption = False,
    device: o.DeviceOption = None,
    **settings: Any,
) -> None:
    """Train a Koopman autoencoder with information terms (Cheng et al. 2026) on trajectories.

    Named systems: pendulum, duffing, lorenz, oscillator, oscillators, burgers, kuramoto. With
    --mutual-information-weight 0 --entropy-weight 0 it is a plain Koopman autoencoder. A stopped run goes on from its
    last checkpoint when the command is given again.
    """
    needs("accelerate")
    import torch

    from szilard.engines.loading import check_device
    from szilard.representation.koopman.model import InformationKoopman
    from szilard.representation.koopman.pictures import eigenvalue_picture, manifold_picture
    from szilard.representation.koopman.systems import STEPS, trajectories
    from szilard.representation.koopman.training import train_koopman
    from szilard.representation.koopman.windows import checked_trajectories
    from szilard.training.config import read_config
    from szilard.whole_folder import check_folder, write_whole

    chosen = read_config(KoopmanConfig, config, settings)
    if (chosen_device := training_device(device)) is not None:
        check_device(chosen_device)
    check_folder(output)
    if pictures is not None:
        check_folder(pictures)
        if latent_dim == 1:
            raise ValueError("a manifold is drawn in a plane: --pictures needs --latent-dim of at least 2.")
    if data in STEPS:
        states = trajectories(data, sequences, length, seed=chosen.seed, noise=noise)
    else:
        states = _read(Path(data), tuple(STEPS))
    states = checked_trajectories(states, tuple(states.shape[2:]), chosen.window)
    torch.manual_seed(chosen.seed)
    model = InformationKoopman(
        list(states.shape[2:]), latent_dim, hidden=hidden, operator=operator, variational=variational
    )
    found = train_koopman(model, states, output, chosen, resume=not restart, device=chosen_device)
    if pictures is not None:
        pictures.mkdir(parents=True, exist_ok=True)
        with torch.no_grad():
            latents = model.encode(states)
        write_whole(pictures / "eigenvalues.svg", eigenvalue_picture({"operator": model.eigenvalues()}))
        write_whole(pictures / "manifold.svg", manifold_picture({"latents": latents}))
        note(f"pictures written to {pictures}")
    best = min(found.evaluations, key=lambda row: row["window_error"])
    told = ", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in best.items() if name != "step")
    note(f"held-out trajectories, step {best['step']}: {told}; written to {output}")


def _read(file: Path, systems: tuple[str, ...]) -> Any:
    import numpy as np
    import torch

    if not file.is_file():
        raise ValueError(f"there is no file {str(file)!r}, nor a system of this name ({', '.join(systems)}).")
    try:
        found = np.load(file, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{str(file)!r} is no .npy file of numbers.") from error
    if not isinstance(found, np.ndarray) or found.ndim not in (3, 5) or found.dtype.kind not in "fiu":
        raise ValueError(f"{str(file)!r} must hold numbers [sequences, time, state], or [.., channels, side, side].")
    return torch.from_numpy(found.astype(np.float32))


add_flags(koopman, KoopmanConfig)
