"""What every learned codec here is: CompressAI's contract, a folder, and an id of its weights.

    forward(x) -> {"x_hat": [B, 3, H, W], "likelihoods": {"y": ..., "z": ...}}
    compress(x) -> {"strings": [[y's bytes per image], [z's bytes per image]], "shape": (h_z, w_z)}
    decompress(strings, shape) -> {"x_hat": [B, 3, H, W] in [0, 1]}
    update() computes the frequency tables; aux_loss() trains the quantiles of z's density

x is in [0, 1], its sides multiples of `stride`. A codec has the modules g_a, g_s (transforms), h_a, h_s (of the
hyperprior) and an `entropy_bottleneck` and a `gaussian_conditional`; how y is predicted from the hyperprior is its own:
one walk over y, written once, in which a `Quantizer` rounds, writes or reads.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import torch
from huggingface_hub import PyTorchModelHubMixin, snapshot_download
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from szilard.codecs.entropy_models import EntropyBottleneck, GaussianConditional
from szilard.codecs.exact import ExactArithmetic, exact_copy, plain_float32
from szilard.codecs.quantizers import Predicted, Quantizer, Reading, Rounding, Writing
from szilard.codecs.tables import CorruptStream, SymbolReader, SymbolWriter
from szilard.options import check_choice

_FILES = ("config.json", "README.md", "model.safetensors")  # the weights last: with them the folder is whole
ARITHMETICS = ("exact", "float32")


def id_of(state_dict: Mapping[str, Tensor]) -> bytes:
    """8 bytes that name weights and tables: the begin of their SHA-256."""
    found = hashlib.sha256()
    for key, value in sorted(state_dict.items()):
        own = value.detach().cpu().contiguous()
        found.update(f"{key} {own.dtype} {tuple(own.shape)}".encode())
        found.update(own.reshape(-1).view(torch.uint8).numpy().tobytes())  # numpy knows no bfloat16
    return found.digest()[:8]


class LearnedCodec(nn.Module, PyTorchModelHubMixin, library_name="szilard", tags=["szilard", "image-compression"]):  # type: ignore[call-arg]
    """Base of the codecs.

    Attributes:
        arithmetic: "exact": a decoder predicts what the encoder predicted on every machine, at three times the time of
            the entropy model. "float32": only on the same machine. Used by compress, by decompress, and by forward in
            eval mode where no gradients are wanted, so that their pictures are equal.
    """

    name: ClassVar[str]
    stride: ClassVar[int] = 64
    entropy_parts: ClassVar[tuple[str, ...]] = ("h_s",)

    g_a: nn.Module
    g_s: nn.Module
    h_a: nn.Module
    h_s: nn.Module

    def __init__(self, latent: int, hyper: int) -> None:
        super().__init__()
        self.latent_channels, self.hyper_channels = latent, hyper
        self.entropy_bottleneck = EntropyBottleneck(hyper)
        self.gaussian_conditional = GaussianConditional()
        self._arithmetic = "exact"
        self._twin: tuple[object, LearnedCodec] | None = None
        self._named = b""
        self.trained_on: dict[str, Any] = {}  # for the card

    @property
    def arithmetic(self) -> str:
        """exact or float32."""
        return self._arithmetic

    @arithmetic.setter
    def arithmetic(self, value: str) -> None:
        check_choice("arithmetic", value, ARITHMETICS)
        self._arithmetic = value

    def walk(self, hyper: Tensor, quantizer: Quantizer) -> Predicted:
        """Predict and decode y, pass by pass.

        Args:
            hyper: h_s(z^), [B, ., h, w].
            quantizer: what happens to each pass.
        """
        raise TypeError(f"{type(self).__name__} does not say how y is predicted.")

    def forward(self, x: Tensor) -> dict[str, Any]:
        """The reconstruction and the likelihoods of y and z.

        In training rates are those of y and z with uniform noise, and what is passed on is rounded (gradients pass).

        Args:
            x: [B, 3, H, W] in [0, 1], sides multiples of `stride`.
        """
        self.check_pixels(x)
        y = self.g_a(x)
        z = self.h_a(y)
        _, z_likelihoods = self.entropy_bottleneck(z)
        differentiable = torch.is_grad_enabled() or self.training
        if differentiable:
            medians = self.entropy_bottleneck.medians
            difference = z - medians
            z_hat = difference + (difference.round() - difference).detach() + medians
            found = self.walk(self.h_s(z_hat), Rounding(y, all_coded=self.training))
        else:
            found = self._predicted(self.entropy_bottleneck.quantize(z), Rounding(y.to(self._entropy_type)))
        # in training the rate is that of y with noise, while contexts and synthesis got y rounded: mixed quantisation
        _, likelihoods = self.gaussian_conditional(y, found.scales.to(y.dtype), found.means.to(y.dtype))
        # Paper: the predictor of what to code is trained last, the rest frozen; here: beside the rest, from detached
        # numbers, and all is coded in training, which is the same for the rest without a second training.
        if found.coded is not None and not self.training:
            likelihoods = torch.where(found.coded, likelihoods, likelihoods.new_ones(()))
        return {
            "x_hat": self.g_s(found.y_hat.to(y.dtype)) if differentiable else self._synthesized(found.y_hat),
            "likelihoods": {"y": likelihoods, "z": z_likelihoods},
            "selection": found.selection,
            "scales": found.scales,
            "means": found.means,
            "y": y,
            "y_hat": found.y_hat,
        }

    @torch.no_grad()
    def compress(self, x: Tensor, refine: bool = False) -> dict[str, Any]:
        """The streams of each image.

        Args:
            x: [B, 3, H, W] in [0, 1], sides multiples of `stride`.
            refine: search for better latents first, as `annealing.refine` does by itself: MLICv2+.

        Returns:
            strings [[y of each image], [z of each image]], shape (h_z, w_z), checks [CRC-32 of each image's symbols].

        Raises:
            ValueError: before `update`, sides that are not multiples of `stride`, or a search for a codec that does not
                know its lambda.
        """
        self.check_pixels(x)
        self.check_tables()
        if refine:
            from szilard.codecs.annealing import own_lambda
            from szilard.codecs.annealing import refine as better

            found = better(self, x, own_lambda(self))
            return self.compress_latents(found.y, found.z)
        y = self.g_a(x)
        return self.compress_latents(y, self.h_a(y))

    @torch.no_grad()
    def compress_latents(self, y: Tensor, z: Tensor) -> dict[str, Any]:
        """`compress` of latents that are known already (those that `annealing.refine` found)."""
        z_hat = self.entropy_bottleneck.quantize(z)
        indexes = self.entropy_bottleneck.indexes(*z.shape[-2:]).reshape(-1)
        symbols = (z - self.entropy_bottleneck.medians).round().flatten(1)
        z_strings = []
        for row in symbols:
            writer = SymbolWriter()
            writer.write(row, indexes, self.entropy_bottleneck.tables)
            z_strings.append(writer.getvalue())
        writing = Writing(y.to(self._entropy_type), self.gaussian_conditional)
        self._predicted(z_hat, writing)
        y_strings = [writer.getvalue() for writer in writing.writers]
        return {"strings": [y_strings, z_strings], "shape": tuple(z.shape[-2:]), "checks": writing.checks}

    @torch.no_grad()
    def decompress(self, strings: list[list[bytes]], shape: tuple[int, int], checks: Any = None) -> dict[str, Tensor]:
        """The pictures [B, 3, H, W] in [0, 1].

        Args:
            strings, shape: of `compress`.
            checks: of `compress`; None: not verified.

        Raises:
            CorruptStream: bytes that no encoder of these weights wrote.
        """
        y_hat = self.decode_latents(strings, shape, checks)
        return {"x_hat": self._synthesized(y_hat).clamp_(0, 1)}

    @torch.no_grad()
    def decode_latents(self, strings: list[list[bytes]], shape: tuple[int, int], checks: Any = None) -> Tensor:
        """y_hat [B, M, h, w] of `decompress`."""
        if len(strings) != 2 or len(strings[0]) != len(strings[1]) or not strings[0]:
            raise ValueError("strings must be the streams of y and those of z, one of each for an image.")
        indexes = self.entropy_bottleneck.indexes(*shape).reshape(-1)
        z = []
        for stream in strings[1]:
            reader = SymbolReader(stream)
            z.append(reader.read(indexes, self.entropy_bottleneck.tables))
            reader.check_empty()
        symbols = torch.stack(z).reshape(len(z), -1, *shape).to(self.entropy_bottleneck.quantiles.dtype)
        reading = Reading(list(strings[0]), self.gaussian_conditional)
        found = self._predicted(symbols + self.entropy_bottleneck.medians, reading)
        if checks is not None and list(checks) != reading.checks:
            raise CorruptStream(
                "the symbols that were read are not those that were written: other weights, or a file that was made in "
                "float32 on a numerically different machine."
            )
        for reader in reading.readers:
            reader.check_empty()
        return found.y_hat

    def _predicted(self, z_hat: Tensor, quantizer: Quantizer) -> Predicted:
        """The walk without gradients, in the arithmetic of files."""
        if self._arithmetic == "float32":
            with plain_float32(z_hat.device):
                return self.walk(self.h_s(z_hat), quantizer)
        twin = self._exact_twin()
        with torch.no_grad(), _exact_outside(quantizer) as own:
            return twin.walk(twin.h_s(z_hat.double()), own)

    def _synthesized(self, y_hat: Tensor) -> Tensor:
        """g_s, for exact files in float64: what sums differ by between machines stays far below a sample."""
        kind = self.entropy_bottleneck.quantiles.dtype
        if self._arithmetic == "float32":
            with plain_float32(y_hat.device):
                found: Tensor = self.g_s(y_hat.to(kind))
            return found
        wide: Tensor = self._exact_twin().g_s(y_hat.double())
        return wide.to(kind)

    def _exact_twin(self) -> LearnedCodec:
        """This codec with float64 copies of all that a decoder runs; made anew when a weight has changed."""
        names = (*self.entropy_parts, "g_s")
        parts = [part for name in names for part in getattr(self, name).parameters()]
        version = tuple((id(part), part._version, part.data_ptr()) for part in parts)
        if self._twin is None or self._twin[0] != version:
            twin = copy.copy(self)
            twin.__dict__["_modules"] = dict(self._modules) | {name: exact_copy(getattr(self, name)) for name in names}
            self._twin = (version, twin)
        return self._twin[1]

    @property
    def _entropy_type(self) -> torch.dtype:
        return torch.float64 if self._arithmetic == "exact" else self.entropy_bottleneck.quantiles.dtype

    def update(self, scale_table: Any = None, force: bool = False, update_quantiles: bool = False) -> bool:
        """Compute the frequency tables; to be called after training.

        Args:
            scale_table: standard deviations; None: 64 from 0.11 to 256.
            force: also where there are tables.
            update_quantiles: find the tails of z's densities by bisection first.

        Returns:
            Whether tables were computed.
        """
        found = self.gaussian_conditional.update(scale_table, force=force)
        return self.entropy_bottleneck.update(force=force, find_quantiles=update_quantiles) | found

    @torch.no_grad()
    def round_to_half(self) -> None:
        """Round every parameter to a half-precision number, kept in its own type, and compute the tables anew."""
        for parameter in self.parameters():
            parameter.copy_(parameter.half())
        self.update(force=True)

    def aux_loss(self) -> Tensor:
        """Of the quantiles, which have an optimiser of their own."""
        return self.entropy_bottleneck.loss()

    def check_tables(self) -> None:
        """Refuse a codec without frequency tables, before anything is computed for a file."""
        for model in (self.entropy_bottleneck, self.gaussian_conditional):
            _ = model.tables

    def check_pixels(self, x: Tensor) -> None:
        """Refuse what is no picture of this codec."""
        if x.dim() != 4 or x.shape[1] != 3 or not x.is_floating_point():
            raise ValueError(f"x must be floating-point [B, 3, H, W] in [0, 1], not {x.dtype} {tuple(x.shape)}.")
        if x.shape[-2] % self.stride or x.shape[-1] % self.stride or not x.numel():
            raise ValueError(
                f"sides must be multiples of {self.stride}, not {x.shape[-2]} x {x.shape[-1]}: pad the picture, or use "
                "szilard.codecs.coding.encode."
            )

    def weights_id(self) -> bytes:
        """8 bytes that name these weights and tables."""
        found = id_of(self.state_dict())
        if found != self._named:  # weights may have been changed behind autograd's back, through `.data`
            self._named, self._twin = found, None
        return found

    def rate_parameters(self) -> Iterator[nn.Parameter]:
        """What the rate-distortion loss trains: all but the quantiles."""
        return (parameter for name, parameter in self.named_parameters() if not name.endswith("quantiles"))

    def plain_settings(self) -> dict[str, Any]:
        """What `config.json` keeps, and what the class is built from: {"config": fields}."""
        settings = getattr(self, "settings", None)
        return {} if settings is None else asdict(settings)

    def save_pretrained(self, save_directory: Any, *, config: Any = None, **options: Any) -> Any:
        """Write a folder that `from_pretrained` reads: config.json, README.md, and model.safetensors last.

        Parameters whose values are all half-precision numbers (`round_to_half`) take two bytes each; nothing is lost.
        """
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".new-") as scratch:
            kept = {"codec": self.name, "config": self.plain_settings(), "trained_on": self.trained_on}
            (Path(scratch) / "config.json").write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")
            (Path(scratch) / "README.md").write_text(self.card(), encoding="utf-8")
            tensors = {key: value.detach().cpu().contiguous() for key, value in self.state_dict().items()}
            for key, parameter in self.named_parameters():
                half = parameter.detach().cpu().half()
                if torch.equal(half.to(parameter.dtype), parameter.detach().cpu()):
                    tensors[key] = half.contiguous()
            save_file(tensors, Path(scratch) / "model.safetensors")
            for file in _FILES:
                os.replace(Path(scratch) / file, folder / file)
        return None

    @classmethod
    def _from_pretrained(cls, *, model_id: str, map_location: Any = "cpu", strict: bool = True, **options: Any) -> Any:
        folder = Path(model_id)
        if not folder.is_dir():
            kept = ("revision", "cache_dir", "force_download", "local_files_only", "token")
            chosen = {name: options[name] for name in kept if options.get(name) is not None}
            folder = Path(snapshot_download(model_id, allow_patterns=list(_FILES), **chosen))
        try:
            kept_config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            name, settings = kept_config["codec"], kept_config["config"]
        except (OSError, ValueError, KeyError, TypeError):
            raise ValueError(f"{model_id!r} holds no learned codec: its config.json names none.") from None
        if name != cls.name:
            raise ValueError(f"{model_id!r} holds a codec {name!r}, not {cls.name!r}: open it with opening.open_codec.")
        try:
            codec = cls(settings)  # type: ignore[call-arg, arg-type]
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"the config.json of {model_id!r} is of no {name} that this release knows: {error}"
            ) from None
        try:
            codec.load_state_dict(load_file(folder / "model.safetensors"), strict=strict)
        except (OSError, RuntimeError, SafetensorError) as error:
            raise ValueError(f"the weights in {model_id!r} cannot be read: {_reason(error)}") from None
        codec.trained_on = kept_config.get("trained_on", {})
        return codec.to(map_location or "cpu").eval()

    def card(self) -> str:
        """The README.md of a folder."""
        count = sum(parameter.numel() for parameter in self.parameters())
        lines = ["---", "library_name: szilard", "tags: [szilard, image-compression]", "---", f"# {self.name}", ""]
        lines += [f"A learned image codec of {count:,} parameters.", ""]
        if self.trained_on:
            lines += ["| trained with | |", "|---|---|"]
            lines += [f"| {name} | {value} |" for name, value in self.trained_on.items()] + [""]
        lines += [
            "```bash",
            "szilard encode photo.png photo.szc --model FOLDER",
            "szilard decode photo.szc photo.png --model FOLDER",
        ]
        return "\n".join([*lines, "```", ""])

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_twin": None}


def _reason(error: Exception) -> str:
    """One line of what torch or safetensors say; torch begins with the name of the class."""
    lines = [line.strip() for line in str(error).splitlines()]
    return lines[1] if isinstance(error, RuntimeError) and len(lines) > 1 else lines[0]


class _exact_outside:
    """Exact arithmetic for the walk, but not for what a quantizer does with the coder."""

    def __init__(self, quantizer: Quantizer) -> None:
        self._quantizer, self._mode = quantizer, ExactArithmetic()

    def __enter__(self) -> Quantizer:
        self._mode.__enter__()

        def own(channels: slice, where: Tensor, scales: Tensor, means: Tensor, coded: Tensor | None) -> Tensor:
            with torch._C.DisableTorchFunction():
                return self._quantizer(channels, where, scales, means, coded)

        return own

    def __exit__(self, *error: Any) -> None:
        self._mode.__exit__(*error)
