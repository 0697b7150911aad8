"""The trained parts of REFRAG: encoder, projection, policy, and where it was tuned, the decoder's changes."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch
from torch import nn

from szilard.compression.refrag.policy import PolicyNetwork
from szilard.compression.refrag.text_encoder import TextEncoder, bare_config, fitting_pooling, open_encoder
from szilard.training.add_on import AddOn
from szilard.training.low_rank import LowRank

DECODER = "decoder"  # the folder beside an add-on with the whole decoder that was trained with it


class RefragParts(AddOn):
    """M_enc, phi and g_theta for one decoder, with the encoder's tokenizer: everything in one file.

    Args:
        base: of the decoder, as `AddOn`; where all its weights were trained, of the trained one.
        encoder: settings of the encoder model, as `PretrainedConfig.to_dict` gives them.
        tokenizer_bytes: of the encoder's tokenizer.
        chunk: k, tokens of a chunk.
        pooling: "first", "mean" or "last"; see `TextEncoder`.
        longest: encoder tokens of a chunk.
        changes: of the decoder's weights, low-rank: "shapes", "scale", "transposed" of `LowRank`; None: none.
    """

    slug: ClassVar[str] = "refrag"

    def __init__(
        self,
        base: dict[str, Any],
        encoder: dict[str, Any],
        tokenizer_bytes: int,
        chunk: int = 16,
        pooling: str = "first",
        longest: int = 32,
        changes: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(base)
        self.settings: dict[str, Any] = {
            "encoder": encoder,
            "tokenizer_bytes": tokenizer_bytes,
            "chunk": chunk,
            "pooling": pooling,
            "longest": longest,
        }
        self.chunk = chunk
        self.encoder = TextEncoder(encoder, tokenizer_bytes, pooling, longest)
        width = self.encoder.width
        # Paper: an MLP of two layers as wide as the decoder; here: with GELU and biases (inferred).
        self.projection = nn.Sequential(
            nn.Linear(width, self.hidden_size), nn.GELU(), nn.Linear(self.hidden_size, self.hidden_size)
        )
        self.policy = PolicyNetwork(width)
        self.policy_steps: torch.Tensor
        self.register_buffer("policy_steps", torch.tensor(0))
        self.changes = None if changes is None else LowRank(**changes)
        self._known: tuple[Any, str] | None = None  # the encoder's fingerprint, and what it was taken of

    @property
    def width(self) -> int:
        """d_e, of chunk embeddings."""
        return self.encoder.width

    @property
    def encoder_fingerprint(self) -> str:
        """A hash of what chunk embeddings depend on: encoder, tokenizer, pooling and chunk length."""
        tensors = sorted(self.encoder.state_dict().items())
        state = tuple((t.data_ptr(), 0 if t.is_inference() else t._version) for _, t in tensors)
        if self._known is None or self._known[0] != state:
            found = hashlib.sha256(f"{self.chunk} {self.encoder.pooling} {self.encoder.longest}".encode())
            for name, tensor in tensors:
                found.update(name.encode() + tensor.detach().cpu().numpy().tobytes())
            self._known = state, found.hexdigest()[:12]
        return self._known[1]

    def embed(self, texts: Sequence[str]) -> torch.Tensor:
        """c: chunk embeddings, float32 [texts, d_e], each of its own text alone; with gradients."""
        return self.encoder(self.encoder.tokenize(texts))

    def project(self, embeddings: torch.Tensor) -> torch.Tensor:
        """e = phi(c): [L, d_e] -> [L, hidden], in the place of token embeddings."""
        return self.projection(embeddings)

    @contextlib.contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """While this is open the decoder has its low-rank changes, if any; behind it its own weights again."""
        if self.changes is None:
            yield
            return
        with self.changes.applied(model):
            yield

    def remade(self, base: dict[str, Any], changes: LowRank | None) -> RefragParts:
        """The same parts for a decoder that was trained on."""
        kept: dict[str, Any] | None = None
        if changes is not None:
            kept = {"shapes": changes.shapes, "scale": changes.scale, "transposed": sorted(changes.transposed)}
        made = RefragParts(base, **self.settings, changes=kept)
        own = {name: tensor for name, tensor in self.state_dict().items() if not name.startswith("changes.")}
        if changes is not None:
            own |= {f"changes.{name}": tensor for name, tensor in changes.state_dict().items()}
        made.load_state_dict(own)
        return made.eval()

    @torch.no_grad()
    def match_scale(self, texts: Sequence[str], vectors: torch.Tensor) -> None:
        """Scale phi so that what it gives for these texts has the size (RMS) of these token embeddings.

        Otherwise a decoder that does not learn reads vectors it has never seen the like of (inferred).
        """
        training = self.training
        self.eval()
        last: Any = self.projection[2]
        last.bias.zero_()
        ratio = vectors.float().pow(2).mean().sqrt() / self.project(self.embed(texts)).pow(2).mean().sqrt()
        last.weight.mul_(ratio)
        self.train(training)


def new_parts(
    base: dict[str, Any],
    decoder_tokenizer: Any,
    *,
    encoder: str,
    chunk: int,
    pooling: str = "auto",
    width: int = 128,
    layers: int = 2,
) -> RefragParts:
    """Parts to be trained: a pretrained encoder or a small new one, the rest new.

    Args:
        base: of the decoder.
        decoder_tokenizer: its tokenizer.
        encoder: folder, hub id, or "small".
        chunk: k.
        pooling: "auto": the first state, or the last of a model that looks back only.
        width, layers: of "small".

    Raises:
        ValueError: no such encoder, or a pooling that it does not allow.
    """
    longest = 2 * chunk
    model, text = open_encoder(encoder, decoder_tokenizer, longest=longest, width=width, layers=layers)
    config = bare_config(model)
    data = text.encode()
    made = RefragParts(base, config, len(data), chunk, fitting_pooling(pooling, config), longest)
    made.encoder.model.load_state_dict(
        {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("pooler.")}
    )
    made.encoder.tokenizer_json.copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8))
    return made
