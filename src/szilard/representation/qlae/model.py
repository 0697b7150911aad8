"""QLAE, an autoencoder with quantised latents, and the same networks around other bottlenecks.

    model = QLAE(image_size=32, num_latents=12)
    codes = model.encode(pictures)                  # [B, 12] indices
    model.decode(codes)                             # [B, 3, 32, 32]
    model.traverse(pictures[0], latent=3)           # all values of one latent, the others as they are

A folder of `save_pretrained` holds safetensors, the sizes, and a card with what the model was trained on and reached.
"""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCard, PyTorchModelHubMixin
from safetensors import SafetensorError
from torch import Tensor, nn

from szilard.options import check_number
from szilard.representation.qlae.architecture import Encoder, StyleDecoder, make_shape
from szilard.representation.qlae.bottlenecks import Code, make_bottleneck
from szilard.representation.qlae.quantizer import LatentQuantizer

_FILES = ("README.md", "config.json", "model.safetensors")  # the weights last: with them the folder is whole


class LatentAutoencoder(nn.Module, PyTorchModelHubMixin, library_name="szilard", tags=["szilard"]):  # type: ignore[call-arg]
    """Encoder, bottleneck and style decoder.

    Args:
        bottleneck: "qlae", or what it is compared with: "ae", "bioae", "beta-vae", "beta-tcvae",
            "vq-vae", "fsq".
        image_size, channels: of the pictures.
        num_latents: n_z; the paper takes twice the number of factors.
        num_values: n_v, or a list with a number per latent ("qlae", "fsq").
        learn_values, shared_codebook: of "qlae", see `LatentQuantizer`.
        architecture: "large" (the paper's) or "small".
        widths, dense: other sizes than the architecture's: channels per stage, widths of the dense layers.
        record: what the card tells: "data", "settings" and "metrics" of the training.

    Raises:
        TypeError, ValueError: sizes that do not fit, or no such bottleneck.
    """

    def __init__(
        self,
        bottleneck: str = "qlae",
        image_size: int = 64,
        channels: int = 3,
        num_latents: int = 12,
        num_values: int | Sequence[int] = 10,
        learn_values: bool = True,
        shared_codebook: bool = False,
        architecture: str = "large",
        widths: Sequence[int] | None = None,
        dense: Sequence[int] | None = None,
        record: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.kind = bottleneck
        self.shape = make_shape(image_size, channels, architecture, widths, dense)
        self.bottleneck = make_bottleneck(bottleneck, num_latents, num_values, learn_values, shared_codebook)
        self.encoder = Encoder(self.shape, self.bottleneck.features)
        self.decoder = StyleDecoder(self.shape, self.bottleneck.outputs)
        self.record = record or {}

    @property
    def discrete(self) -> bool:
        """Whether codes are indices."""
        return self.bottleneck.discrete

    @property
    def num_latents(self) -> int:
        """n_z."""
        return self.bottleneck.num_latents

    def forward(self, pictures: Tensor) -> tuple[Tensor, Code]:
        """Pictures [B, C, s, s] in [0, 1] -> logits of their reconstruction, and the bottleneck's latent and codes."""
        code = self.bottleneck(self.encoder(pictures))
        return self.decoder(code.latent), code

    @torch.no_grad()
    def encode(self, pictures: Tensor, *, batch_size: int = 256) -> Tensor:
        """Codes of pictures.

        Args:
            pictures: [N, C, s, s], numbers in [0, 1] or bytes.
            batch_size: pictures at a time.

        Returns:
            [N, n_z] on the model's device: int64 indices where `discrete`, float32 else (of Gaussian latents the mean).

        Raises:
            ValueError: pictures of another size, or numbers outside [0, 1].
        """
        self._check(pictures)
        found = []
        for part in self._batches(pictures, batch_size):
            features = self.encoder(part)
            if not bool(features.isfinite().all()):
                raise ValueError("the encoder's latents are no numbers: its weights are damaged, so train it anew.")
            found.append(self.bottleneck(features).codes)
        return torch.cat(found)

    @torch.no_grad()
    def decode(self, codes: Tensor, *, batch_size: int = 256) -> Tensor:
        """Pictures [N, C, s, s] in [0, 1] of codes [N, n_z], as `encode` gives them."""
        check_number("batch_size", batch_size, low=1, integer=True)
        if not isinstance(codes, Tensor):
            raise TypeError(f"codes must be a tensor [N, {self.num_latents}], not a {type(codes).__name__}.")
        if codes.dim() != 2 or not len(codes):
            raise ValueError(f"codes must be [N, {self.num_latents}], N at least 1, not {tuple(codes.shape)}.")
        codes = codes.float() if codes.is_floating_point() else codes
        parts = codes.to(self.decoder.constant.device).split(batch_size)
        return torch.cat([self.decoder(self.bottleneck.decode(part)).sigmoid() for part in parts])

    def reconstruct(self, pictures: Tensor, *, batch_size: int = 256) -> Tensor:
        """What is left of pictures behind the bottleneck; arguments as in `encode`."""
        return self.decode(self.encode(pictures, batch_size=batch_size), batch_size=batch_size)

    def traverse(self, picture: Tensor, latent: int, values: Tensor | None = None) -> Tensor:
        """The picture with one latent at other values.

        Args:
            picture: [C, s, s].
            latent: from 0.
            values: [n] codes of that latent; None: all that a discrete one has.

        Returns:
            [n, C, s, s].

        Raises:
            ValueError: no such latent, or no values for a latent that is a number.
        """
        check_number("latent", latent, low=0, high=self.num_latents - 1, integer=True)
        self._check(picture[None] if isinstance(picture, Tensor) else picture)
        codes = self.encode(picture[None])
        if values is None:
            if self.bottleneck.counts is None:
                raise ValueError("a latent that is a number has no list of values: name some.")
            values = torch.arange(int(self.bottleneck.counts[latent]))
        if not isinstance(values, Tensor) or values.dim() != 1 or not len(values):
            raise ValueError("values must be a tensor [n] of codes, one at least.")
        if self.discrete and values.is_floating_point():
            raise ValueError("values of a discrete latent are indices, whole numbers from 0.")
        codes = codes.repeat(len(values), 1)
        codes[:, latent] = values.to(codes)
        return self.decode(codes)

    def sample(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Pictures [count, C, s, s] of codes drawn at random; they look like data where the decoder was trained so."""
        return self.decode(self.bottleneck.sample(count, generator))

    def note(self, record: dict[str, Any]) -> None:
        """Keep what the model was trained on and reached, for its config and card."""
        self.record = record
        settings: Any = self._hub_mixin_config
        settings["record"] = record

    def save_pretrained(self, save_directory: Any, *, config: Any = None, **options: Any) -> Any:
        """Write weights, sizes and card, each file whole; see huggingface_hub. What else is in the folder stays."""
        push, repo = options.pop("push_to_hub", False), options.pop("repo_id", None)
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        config = {"bottleneck": self.kind, **(config or self._hub_mixin_config)}  # type: ignore[dict-item]
        with tempfile.TemporaryDirectory(dir=folder, prefix=".new-") as scratch:
            super().save_pretrained(scratch, config=config)
            for name in _FILES:
                os.replace(Path(scratch) / name, folder / name)
        return self.push_to_hub(repo or folder.name, config=config, **options) if push else None

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        config: dict[str, Any] | None = None,
        map_location: str = "cpu",
        strict: bool = True,
        **options: Any,
    ) -> Any:
        found = (config or {}).get("bottleneck")
        if found is None:
            raise ValueError(f"{model_id!r} holds no autoencoder of szilard: szilard train qlae makes one.")
        if cls is QLAE and found != "qlae":
            raise ValueError(f"{model_id!r} is of kind {found!r}: open it with LatentAutoencoder.from_pretrained.")
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # huggingface_hub prints that it reads a folder
                made = super()._from_pretrained(model_id=model_id, map_location=map_location, strict=strict, **options)
        except (SafetensorError, RuntimeError, TypeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(f"{model_id!r} holds no whole autoencoder of szilard ({reason}).") from error
        return made.eval()

    def generate_model_card(self, *_: Any, **__: Any) -> ModelCard:
        """The README.md of a folder."""
        record = self.record
        lines = ["---", "library_name: szilard", "tags: [szilard, disentanglement]", "---", f"# {self.kind}", ""]
        sizes = (
            f"{self.num_latents} latents, pictures of {self.shape.image_size} pixels, {self.shape.channels} channels"
        )
        lines += [f"An autoencoder with the bottleneck `{self.kind}`: {sizes}, widths {list(self.shape.widths)}.", ""]
        if "data" in record:
            lines += [f"Trained on {record['data']}.", ""]
        for title in ("settings", "metrics"):
            if record.get(title):
                shown = {
                    name: f"{value:.5g}" if isinstance(value, float) else value for name, value in record[title].items()
                }
                lines += [
                    f"| {title} | |",
                    "|---|---|",
                    *(f"| {name} | {value} |" for name, value in shown.items()),
                    "",
                ]
        lines += ["```python", "import szilard", ""]
        lines += [f"model = szilard.{type(self).__name__}.from_pretrained(FOLDER)", "model.encode(pictures)", "```", ""]
        lines += ["After Hsu et al., Disentanglement via Latent Quantization, NeurIPS 2023, arXiv 2305.18378.", ""]
        return ModelCard("\n".join(lines))

    def _check(self, pictures: Tensor) -> None:
        if not isinstance(pictures, Tensor):
            raise TypeError(f"pictures must be a tensor, not a {type(pictures).__name__}: torch.from_numpy makes one.")
        shape = self.shape
        wanted = (shape.channels, shape.image_size, shape.image_size)
        if pictures.dim() != 4 or pictures.shape[1:] != wanted or not len(pictures):
            raise ValueError(
                f"pictures must be [N, {', '.join(map(str, wanted))}], N at least 1, not {list(pictures.shape)}."
            )
        if pictures.dtype == torch.uint8:
            return
        if not pictures.is_floating_point() or not bool(((pictures >= 0) & (pictures <= 1)).all()):
            raise ValueError("pictures must be bytes (uint8), or numbers from 0 to 1.")

    def _batches(self, pictures: Tensor, batch_size: int) -> Iterator[Tensor]:
        check_number("batch_size", batch_size, low=1, integer=True)
        device = self.decoder.constant.device
        return (unit(part.to(device)) for part in pictures.split(batch_size))


class QLAE(LatentAutoencoder):
    """The quantised-latent autoencoder; arguments as in `LatentAutoencoder`. Codes are indices, int64 [B, n_z]."""

    def __init__(
        self,
        image_size: int = 64,
        channels: int = 3,
        num_latents: int = 12,
        num_values: int | Sequence[int] = 10,
        learn_values: bool = True,
        shared_codebook: bool = False,
        architecture: str = "large",
        widths: Sequence[int] | None = None,
        dense: Sequence[int] | None = None,
        record: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(
            bottleneck="qlae",
            image_size=image_size,
            channels=channels,
            num_latents=num_latents,
            num_values=num_values,
            learn_values=learn_values,
            shared_codebook=shared_codebook,
            architecture=architecture,
            widths=widths,
            dense=dense,
            record=record,
        )

    @property
    def quantizer(self) -> LatentQuantizer:
        """The codebooks."""
        return self.bottleneck.quantizer  # type: ignore[return-value]


def unit(pictures: Tensor) -> Tensor:
    """Bytes or numbers as float32 in [0, 1]."""
    return pictures.float() / 255 if pictures.dtype == torch.uint8 else pictures.float()
