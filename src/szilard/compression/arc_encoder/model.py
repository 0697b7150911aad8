"""The add-on of ARC-Encoder: one encoder, and for each decoder a projector and two learned vectors.

ARC-Encoder (Pilchen, Grave, Perez 2025, arXiv 2510.20535): every document's vectors are followed by <Cont> (text goes
on) or <Rec> (the document is to be repeated), both learned, in the encoder's space; then all go through two matrices
without bias and without anything between them:

    z = W_2 W_1 [y; <Cont>]          d_e -> b -> d; W_1 y, of width b, is what a store of documents keeps
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer

from szilard.compression.arc_encoder.encoder import PooledEncoder, encoder_config, take_weights
from szilard.compression.arc_encoder.groups import Layout, Pooling
from szilard.compression.arc_encoder.pieces import batches, cut
from szilard.compression.arc_encoder.sides import Side, check_name, entry_of
from szilard.engines.engine import Engine
from szilard.options import check_choice, check_number
from szilard.training.add_on import AddOn
from szilard.whole_folder import whole_folder

Self = TypeVar("Self", bound="ArcModel")
_TOKENIZER = "tokenizer"
_TRAIN = "szilard train arc-encoder --stage add-decoder"


class ArcModel(AddOn):
    """An encoder and the decoders it serves.

    Args:
        base: of the first decoder.
        encoder: its configuration, see `PooledEncoder`.
        decoders: by name: "name", "fingerprint", "hidden_size", "vocab_size" of the model, "bottleneck" (b), and
            "specials": whether its vectors end with <Cont>.
        factors, vectors: see `Pooling`: what it was trained for last.
        attention, queries: see `PooledEncoder`.

    Attributes:
        tokenizer: the encoder's.
    """

    slug = "arc-encoder"
    tokenizer: Any

    def __init__(
        self,
        base: dict[str, Any],
        encoder: dict[str, Any],
        decoders: dict[str, dict[str, Any]],
        factors: list[int],
        vectors: int | None = None,
        attention: str = "full",
        queries: str = "mean",
    ) -> None:
        super().__init__(base)
        self.pooling = Pooling(tuple(factors), vectors)
        check_choice("attention", attention, ("full", "causal"))
        check_choice("queries", queries, ("mean", "last"))
        self.encoder = PooledEncoder(encoder, attention, queries)
        self.encoder_settings = encoder
        self.decoders = {name: dict(entry) for name, entry in sorted(decoders.items())}
        with torch.random.fork_rng(devices=[]):
            self.sides = nn.ModuleDict({name: self._side(entry) for name, entry in self.decoders.items()})
        self.tokenizer = None
        self._compared: tuple[Any, Any, bool] | None = None  # two tokenizers, and whether their tokens are the same

    def _side(self, entry: dict[str, Any]) -> Side:
        return Side(self.encoder.hidden_size, int(entry["bottleneck"]), int(entry["hidden_size"]))

    # ---- made, kept, found -----------------------------------------------------------------------------------

    @classmethod
    def made_of(
        cls,
        source: Engine,
        decoders: dict[str, Engine],
        *,
        pooling: Pooling,
        truncate_layers: int = 2,
        bottleneck: int | None = None,
        attention: str = "full",
        queries: str = "mean",
        specials: bool = True,
        seed: int = 0,
    ) -> ArcModel:
        """An untrained encoder with a language model's weights.

        Args:
            source: of the encoder's weights and tokenizer, on transformers.
            decoders: by name.
            pooling: how many vectors a document becomes.
            truncate_layers: last layers that are left out.
            bottleneck: b; None: two thirds of d_e, as 2048 is of 3072.
            attention, queries: see `PooledEncoder`.
            specials: whether vectors end with <Cont> (decoders that are asked in words need none).
            seed: of the projectors.

        Raises:
            ValueError: a source that cannot become an encoder, or a decoder that takes no vectors.
        """
        check_number("bottleneck", bottleneck, low=1, integer=True, optional=True)
        if source.kind != "transformers":
            raise ValueError(f"the encoder is made of a model on transformers; {source.name} is on {source.kind}.")
        model: Any = source.model  # type: ignore[attr-defined]
        settings = encoder_config(model, truncate_layers)
        width, layers = int(settings["hidden_size"]), int(settings["num_hidden_layers"])
        if pooling.layers > layers:
            raise ValueError(f"{pooling.layers} layers cannot pool in an encoder of {layers}.")
        entries = {}
        for name, engine in decoders.items():
            check_name(name)
            entries[name] = entry_of(engine, bottleneck or round(width * 2 / 3), specials)
        base = {key: next(iter(entries.values()))[key] for key in ("name", "fingerprint", "hidden_size", "vocab_size")}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            made = cls(base, settings, entries, list(pooling.factors), pooling.vectors, attention, queries)
            for name, entry in made.decoders.items():  # drawn here, where the seed is ours
                made.sides[name] = made._side(entry)
        take_weights(made.encoder, model)
        made.sides.to(next(made.encoder.parameters()).dtype)
        made.tokenizer = source.tokenizer
        return made.eval()

    @torch.no_grad()
    def match_scale(self, documents: Sequence[Sequence[int]], name: str, engine: Engine) -> None:
        """Make a decoder's vectors as large as its token embeddings, by a factor on W_2.

        # Paper: they begin as large as chance makes them; here: on demand, because a small frozen decoder, whose stream
        # they outweigh, learns to be told nothing for a long time.

        Args:
            documents: in the encoder's tokens, to measure on.
            name: of the decoder.
            engine: it.
        """
        vectors = torch.cat([self.project(state, name)[:-1] for state in self.encode(documents)]).float()
        embeddings = engine.model.get_input_embeddings().weight.float()  # type: ignore[attr-defined]
        side: Any = self.sides[name]
        side.up.weight.mul_(embeddings.pow(2).mean().sqrt() / vectors.pow(2).mean().sqrt())

    def add_decoder(
        self, name: str, engine: Engine, *, bottleneck: int | None = None, specials: bool = True, seed: int = 0
    ) -> None:
        """Give one more decoder an untrained projector and untrained <Cont> and <Rec>.

        Raises:
            ValueError: the name is taken or unusable, or a decoder that takes no vectors.
        """
        check_name(name)
        if name in self.decoders:
            raise ValueError(f"this encoder has a decoder {name!r} already: give the new one another name.")
        known = next(iter(self.decoders.values()))["bottleneck"]
        entry = entry_of(engine, bottleneck or int(known), specials)
        weight = self.encoder.embed_tokens.weight
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            side = self._side(entry)
        self.decoders = dict(sorted({**self.decoders, name: entry}.items()))
        self.sides[name] = side.to(weight.device, weight.dtype)

    def decoder_of(self, engine: Engine, name: str | None = None) -> str:
        """Which of the decoders an engine is.

        Args:
            engine: the decoder.
            name: of the one that is meant; None: found by its weights.

        Raises:
            ValueError: none of them.
        """
        known = ", ".join(f"{key} (weights {entry['fingerprint']})" for key, entry in self.decoders.items())
        if name is not None and name not in self.decoders:
            raise ValueError(f"this encoder has no decoder {name!r}; it serves {known}.")
        width = int(engine.model.config.get_text_config().hidden_size)  # type: ignore[attr-defined]
        for key, entry in self.decoders.items():
            same = entry["fingerprint"] in (None, engine.fingerprint) and entry["hidden_size"] == width
            if same and name in (None, key):
                return key
        meant = f"is not {name}" if name is not None else "is none of its decoders"
        raise ValueError(
            f"{engine.name} with the weights {engine.fingerprint} {meant}; this encoder serves {known}: "
            f"`{_TRAIN}` adds one."
        )

    def settings(self) -> dict[str, Any]:
        """What builds it again."""
        return {
            "base": self.base,
            "encoder": self.encoder_settings,
            "decoders": self.decoders,
            "factors": list(self.pooling.factors),
            "vectors": self.pooling.vectors,
            "attention": self.encoder.attention,
            "queries": self.encoder.queries,
        }

    def save_pretrained(
        self, save_directory: Any, *, config: Any = None, storage: str = "float32", **options: Any
    ) -> Any:
        """Write encoder, projectors and tokenizer into one folder; see `AddOn.save_pretrained`."""
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        with whole_folder(folder / _TOKENIZER) as scratch:
            self.tokenizer.save_pretrained(scratch)
        return super().save_pretrained(folder, config=config or self.settings(), storage=storage, **options)

    @classmethod
    def _from_pretrained(
        cls: type[Self], *, model_id: str, config: dict[str, Any] | None = None, **options: Any
    ) -> Self:
        made = super()._from_pretrained(model_id=model_id, config=config, **options)
        local = Path(model_id).is_dir()
        try:
            if local:
                made.tokenizer = AutoTokenizer.from_pretrained(Path(model_id) / _TOKENIZER, local_files_only=True)
            else:
                kept = {name: options.get(name) for name in ("revision", "cache_dir", "token")}
                made.tokenizer = AutoTokenizer.from_pretrained(model_id, subfolder=_TOKENIZER, **kept)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"{model_id!r} lacks the encoder's tokenizer: it is no whole arc-encoder add-on."
            ) from error
        return made

    # ---- reading ---------------------------------------------------------------------------------------------

    @property
    def encoder_parameters(self) -> int:
        """Weights of the encoder, its embeddings included (as the paper counts 3.0 of 7.2 billion)."""
        return sum(parameter.numel() for parameter in self.encoder.parameters())

    def side_fingerprint(self, name: str) -> str:
        """A hash of what a store of documents depends on: W_1 of a decoder, a row of every weight of the encoder."""
        side: Any = self.sides[name]
        found = hashlib.sha256(side.down.weight.detach().float().cpu().numpy().tobytes())
        for _, weight in sorted(self.encoder.named_parameters()):
            found.update(weight.detach()[:1].float().cpu().numpy().tobytes())
        return found.hexdigest()[:12]

    def tokens(self, text: str) -> list[int]:
        """A document in the encoder's tokens, without BOS and EOS."""
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def shares_tokens(self, tokenizer: Any) -> bool:
        """Whether the decoder's token ids are the encoder's."""
        if tokenizer is self.tokenizer:
            return True
        if self._compared is None or self._compared[0] is not tokenizer or self._compared[1] is not self.tokenizer:
            self._compared = tokenizer, self.tokenizer, tokenizer.get_vocab() == self.tokenizer.get_vocab()
        return self._compared[2]

    def encode(
        self,
        documents: Sequence[Sequence[int]],
        pooling: Pooling | None = None,
        *,
        chunk: int | None = None,
        packed: bool = False,
        batch_tokens: int = 16384,
    ) -> list[Tensor]:
        """The pooled states of documents, [m_i, d_e] each, in the encoder's space, without special tokens.

        Args:
            documents: ids of the encoder's tokenizer, each at least one.
            pooling: None: what it was trained for.
            chunk: longer documents are cut into pieces of so many tokens, which do not see one another.
            packed: all pieces of a forward behind one another in one row, in the place of a row each.
            batch_tokens: places of a forward, at most (a longer piece goes alone).

        Raises:
            ValueError: an empty document, or one beyond the encoder's window.
        """
        check_number("chunk", chunk, low=1, integer=True, optional=True)
        pooling = pooling or self.pooling
        device = self.encoder.embed_tokens.weight.device
        pieces, owner = cut(documents, chunk, self.encoder.context_window, device)
        found: list[Tensor | None] = [None] * len(pieces)
        for batch in batches([len(piece) for piece in pieces], batch_tokens, packed):
            chosen = [pieces[index] for index in batch]
            lengths = [len(piece) for piece in chosen]
            layout = Layout.of([lengths] if packed else [[length] for length in lengths], device)
            rows = torch.cat(chosen)[None] if packed else nn.utils.rnn.pad_sequence(chosen, batch_first=True)
            states, groups = self.encoder(rows, layout, pooling)
            for index, state in zip(batch, groups.split(states), strict=True):
                found[index] = state
        whole: list[list[Tensor]] = [[] for _ in documents]
        for index, state in zip(owner, found, strict=True):
            assert state is not None
            whole[index].append(state)
        return [torch.cat(states) for states in whole]

    def project(self, states: Tensor, name: str, token: str | None = "cont") -> Tensor:
        """A document's vectors in the embedding space of a decoder, [m, d_e] -> [m + 1, d].

        Args:
            states: as `encode` gives them.
            name: of the decoder.
            token: "cont", "rec", or None: no special token behind them ([m, d]), as for decoders that have none.
        """
        side: Any = self.sides[name]
        special = getattr(side, token) if token is not None and self.decoders[name]["specials"] else None
        return side(states, special)
