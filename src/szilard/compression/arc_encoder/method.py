"""ARC-Encoder: documents as a quarter or an eighth of their length in vectors, for a decoder that stays as it is.

Pilchen, Grave, Perez, "ARC-Encoder: learning compressed text representations for large language models", 2025, arXiv
2510.20535. Reference code: kyutai-labs/ARC-Encoder (Apache-2.0).

    y = encoder(document), its last layer pooling x tokens into one                    [m, d_e], m = max(1, ceil(n / x))
    z = W_2 W_1 [y; <Cont>]                                                            [m + 1, d]

z stands in the place of the document's token embeddings, at consecutive positions, under the ordinary causal mask.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch

from szilard.compression.arc_encoder.budget import pieces, pooling_of
from szilard.compression.arc_encoder.contexts import as_engine, as_it_is, check_takes_vectors, ids_of
from szilard.compression.arc_encoder.cost import counted
from szilard.compression.arc_encoder.documents import EncodedDocuments
from szilard.compression.arc_encoder.groups import Pooling, group_sizes
from szilard.compression.arc_encoder.model import ArcModel
from szilard.compression.arc_encoder.sides import usable_name
from szilard.compression.method import Budget, SoftCompressor, check_budget
from szilard.engines.engine import Engine
from szilard.engines.prepared_context import SoftPrompt
from szilard.engines.prompt_parts import around_context, prompt_inputs
from szilard.options import check_bool, check_number
from szilard.training.add_on import opened


@dataclass(frozen=True)
class Document:
    """A text that a prompt holds as vectors; see `ArcEncoder.prompt`."""

    text: str


@dataclass(frozen=True)
class ArcEncoder(SoftCompressor):
    """Encodes each context and gives its vectors, <Cont> behind them.

    Attributes:
        checkpoint: the add-on, or the folder or hub id of one; `szilard train arc-encoder` makes it.
        pooling_factor: x, tokens per vector; at most what the checkpoint was trained for, since larger ones do not
            generalise; 1: one vector per token; None: the checkpoint's own; 0: the context as it is, its tokens' own
            embeddings (no checkpoint is needed).
        chunk: longer contexts are read in pieces of so many encoder tokens, which do not see one another; None: at
            once.
        decoder: which of the checkpoint's decoders the engine is; None: found by its weights.
        packed: pieces are read behind one another in one row under a block-diagonal mask, in the place of a row each.
        batch_tokens: places of one forward of the encoder, at most.
    """

    slug: ClassVar[str] = "arc-encoder"
    paper: ClassVar[str] = "Pilchen, Grave, Perez, 2025, arXiv 2510.20535"

    checkpoint: ArcModel | str | None = None
    pooling_factor: int | None = None
    chunk: int | None = None
    decoder: str | None = None
    packed: bool = False
    batch_tokens: int = 16384

    def __post_init__(self) -> None:
        check_number("pooling_factor", self.pooling_factor, low=0, integer=True, optional=True)
        check_number("chunk", self.chunk, low=1, integer=True, optional=True)
        check_number("batch_tokens", self.batch_tokens, low=1, integer=True)
        check_bool("packed", self.packed)
        if isinstance(self.checkpoint, Path):
            object.__setattr__(self, "checkpoint", str(self.checkpoint))
        if self.checkpoint is not None and not isinstance(self.checkpoint, (str, ArcModel)):
            raise TypeError(f"checkpoint must be an ArcModel, its folder or hub id, not {self.checkpoint!r}.")
        if self.decoder is not None and not isinstance(self.decoder, str):
            raise TypeError(f"decoder must be a name or None, not {self.decoder!r}.")

    @classmethod
    def neutral(cls) -> ArcEncoder:
        """The context as it is."""
        return cls(pooling_factor=0)

    @classmethod
    def from_pretrained(cls, folder: str | Path, **options: Any) -> ArcEncoder:
        """The method with the add-on in a folder or hub repository.

        Raises:
            ValueError: there is none, or it is broken.
        """
        return cls(checkpoint=ArcModel.from_pretrained(folder), **options)

    @classmethod
    def from_causal_lm(
        cls,
        model: Engine | str | None = None,
        decoder: Engine | str | dict[str, Engine] | None = None,
        *,
        pooling_factor: int | Sequence[int] = 4,
        vectors: int | None = None,
        truncate_layers: int = 2,
        bottleneck: int | None = None,
        attention: str = "full",
        queries: str = "mean",
        specials: bool = True,
        seed: int = 0,
    ) -> ArcEncoder:
        """An encoder that is a language model's layers and not trained yet.

        Args:
            model: the encoder's weights: an engine on transformers, or what `szilard.load` takes.
            decoder: an engine, what `szilard.load` takes, or engines by name; None: the same model.
            pooling_factor: x, or one per last layer, as in (2, 2).
            vectors: instead of x: this many vectors, whatever the length.
            truncate_layers: last layers that are left out.
            bottleneck: b; None: two thirds of the encoder's width.
            attention: "full" or "causal" (ablation).
            queries: "mean" or "last" (ablation): of a group's hidden states.
            specials: end with <Cont>; decoders that are asked in words need none.
            seed: of the projectors.

        Raises:
            ValueError: models that do not fit, or settings out of range.
        """
        factors = (pooling_factor,) if isinstance(pooling_factor, int) else tuple(pooling_factor)
        source = as_engine(model)
        if not isinstance(decoder, dict):
            engine = source if decoder is None else as_engine(decoder)
            decoder = {usable_name(engine.name): engine}
        made = ArcModel.made_of(
            source,
            decoder,
            pooling=Pooling(factors, vectors),
            truncate_layers=truncate_layers,
            bottleneck=bottleneck,
            attention=attention,
            queries=queries,
            specials=specials,
            seed=seed,
        )
        return cls(checkpoint=made)

    def check(self, engine: Engine | None = None) -> None:
        """Refuse a missing checkpoint, a broken one, and one that does not serve the engine's model."""
        if self.pooling_factor == 0:
            return
        model = self.model()
        pooling_of(model.pooling, None, self.pooling_factor, 1, None)  # refuses a factor too large
        if engine is not None:
            check_takes_vectors(engine)
            model.decoder_of(engine, self.decoder)

    def recorded_options(self, engine: Engine) -> dict[str, Any]:
        """The checkpoint by the hash of its weights."""
        changed = self.changed_options()
        if self.pooling_factor != 0:
            changed["checkpoint"] = self.model().fingerprint
        return changed

    def model(self) -> ArcModel:
        """The add-on.

        Raises:
            ValueError: none was given, or it is broken.
        """
        if self.checkpoint is None:
            raise ValueError(
                f"{self.slug} needs a trained encoder: checkpoint='folder or hub id'; `szilard train {self.slug} "
                "--model ... --data ... -o folder` makes one."
            )
        if isinstance(self.checkpoint, str):
            return opened(ArcModel, self.checkpoint)
        return self.checkpoint

    def save(self, folder: str | Path) -> None:
        """Write encoder, projectors and tokenizer into one folder, which `from_pretrained` reads."""
        self.model().save_pretrained(folder)

    # ---- compressing -----------------------------------------------------------------------------------------

    @torch.no_grad()
    def compress(self, contexts: Sequence[Any], budget: Budget = None, *, engine: Engine) -> list[SoftPrompt]:
        """Compress each context for the model of an engine; all are read in as few forwards as `batch_tokens` allows.

        Args:
            contexts: texts, or token ids (int64 [length]) of the engine's tokenizer.
            budget: a share in (0, 1]: the pooling factor is its inverse, rounded up; a whole number: so many vectors
                of each context (at most, where it is read in pieces or by several pooling layers); None:
                `pooling_factor`, or what the checkpoint was trained for. <Cont> comes on top, as the paper counts.
            engine: the decoder, on transformers.

        Raises:
            ValueError: an empty context, a budget that asks for more tokens per vector than was trained, both a budget
                and a pooling factor, or a model that the checkpoint does not serve.
        """
        check_budget(budget)
        check_takes_vectors(engine)
        if budget is not None and self.pooling_factor is not None:
            raise ValueError("give either a budget or pooling_factor: both say how many tokens become one vector.")
        if not contexts:
            return []
        rows = [ids_of(context, engine, index) for index, context in enumerate(contexts)]
        if self.pooling_factor == 0:
            return [as_it_is(ids, engine, self.slug) for ids in rows]
        model = self.model()
        name = model.decoder_of(engine, self.decoder)
        start = time.perf_counter()
        model = model.to(engine.device).eval()
        if model.shares_tokens(engine.tokenizer):
            documents = [ids.tolist() for ids in rows]
        else:
            documents = [
                model.tokens(context if isinstance(context, str) else engine.tokenizer.decode(context))
                for context in contexts
            ]
        poolings = [pooling_of(model.pooling, budget, self.pooling_factor, len(ids), self.chunk) for ids in documents]
        states: list[torch.Tensor | None] = [None] * len(documents)
        for pooling in dict.fromkeys(poolings):
            chosen = [index for index, own in enumerate(poolings) if own == pooling]
            found = self._encoded(model, [documents[index] for index in chosen], pooling)
            for index, encoded in zip(chosen, found, strict=True):
                states[index] = encoded
        made = []
        for ids, document, pooling, state in zip(rows, documents, poolings, states, strict=True):
            assert state is not None
            vectors = model.project(state, name).to(engine.model.dtype)  # type: ignore[attr-defined]
            cut = pieces(len(document), self.chunk)
            cost = counted(model, engine, name, len(ids), cut, len(state), len(vectors), pooling)
            trace = {
                "groups": [size for piece in cut for size in group_sizes(piece, pooling.count(piece))],
                "pieces": cut,
                "decoder": name,
            }
            made.append(SoftPrompt(vectors, len(ids), self.slug, engine.fingerprint, trace, cost))
        seconds = time.perf_counter() - start
        total = sum(len(document) for document in documents)
        for soft, document in zip(made, documents, strict=True):
            soft.cost["seconds"] = seconds * len(document) / total
        return made

    @torch.no_grad()
    def encode(self, docs: Sequence[str], chunk: int | None = None, *, decoder: str | None = None) -> EncodedDocuments:
        """The vectors of texts, [m_i + 1, d] each; `.save(file)` keeps them.

        Args:
            docs: texts.
            chunk: in the place of the method's own.
            decoder: for which of the checkpoint's decoders; None: the method's own, or the only one.

        Raises:
            ValueError: an empty text, or several decoders and none is named.
        """
        model = self.model()
        name = decoder or self.decoder or (next(iter(model.decoders)) if len(model.decoders) == 1 else None)
        if name not in model.decoders:
            raise ValueError(f"say for which decoder: decoder= one of {', '.join(model.decoders)}, not {name!r}.")
        documents = [model.tokens(text) for text in docs]
        pooling = pooling_of(model.pooling, None, self.pooling_factor, 1, None)
        model.eval()
        states = self._encoded(model, documents, pooling, chunk)
        side: Any = model.sides[name]
        width = int(model.decoders[name]["bottleneck"])
        inner = side.down(torch.cat(states)) if states else torch.zeros(0, width)
        return EncodedDocuments(inner, [len(state) for state in states], model, name)

    def load_documents(self, file: str | Path) -> EncodedDocuments:
        """The documents that `encode(...).save(file)` kept.

        Raises:
            ValueError: no such file, or documents of another encoder.
        """
        return EncodedDocuments.load(file, self.model())

    @staticmethod
    def document(text: str) -> Document:
        """A text that is to stand in a prompt as vectors.

        Raises:
            ValueError: it is empty.
        """
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"a document is a text that is not empty, not {text!r}.")
        return Document(text)

    def prompt(self, parts: Sequence[Any], engine: Engine) -> dict[str, torch.Tensor]:
        """What `model.generate(**inputs)` takes for a prompt of texts and documents; documents are encoded together.

        Args:
            parts: texts, and `document(...)`, SoftPrompts or tensors [m, d] of `encode`, in their order; or a list of
                such lists: a batch. The tokenizer's own first tokens (BOS) stand before the first part.
            engine: the decoder.

        Returns:
            "inputs_embeds", "attention_mask", "position_ids", padded on the left.

        Raises:
            ValueError: no parts, or a prompt that ends with a document: what its last vector predicts was not trained.
        """
        check_takes_vectors(engine)
        rows = [list(parts)] if not parts or not isinstance(parts[0], (list, tuple)) else [list(row) for row in parts]
        for row in rows:
            if not row or not isinstance(row[-1], str) or not row[-1]:
                raise ValueError("a prompt must end with text: what a document's last vector predicts was not trained.")
        texts = [part.text for row in rows for part in row if isinstance(part, Document)]
        softs = iter(self.compress(texts, engine=engine))
        begin = torch.tensor(around_context(engine, torch.empty(0))[0], dtype=torch.int64)

        def given(part: Any) -> Any:
            if isinstance(part, Document):
                return next(softs)
            if isinstance(part, torch.Tensor) and part.is_floating_point():
                return SoftPrompt(part, len(part), self.slug, engine.fingerprint)
            return part

        return prompt_inputs(engine, [[begin, *(given(part) for part in row)] for row in rows])

    def add_decoder(
        self,
        name: str,
        model: Engine | str,
        *,
        bottleneck: int | None = None,
        specials: bool = True,
        seed: int = 0,
        data: Path | str | None = None,
        output: Path | str | None = None,
        config: Any = None,
    ) -> ArcEncoder:
        """Serve one more decoder: a projector, <Cont> and <Rec> of its own; the encoder stays.

        Args:
            name: of the decoder in the add-on.
            model: the decoder: an engine, or what `szilard.load` takes.
            bottleneck, specials, seed: as in `from_causal_lm`.
            data, output: texts to train the new parts on, and the folder for the training; without them the new parts
                are not trained, and are added to this object's add-on.
            config: an `ArcAddDecoderConfig`.

        Returns:
            The method that serves it, too.

        Raises:
            ValueError: the name is taken, or data without output.
        """
        engine = as_engine(model)
        if (data is None) != (output is None):
            raise ValueError("data and output go together: texts to train on, and a folder for the training.")
        arc = ArcModel.from_pretrained(self.checkpoint) if isinstance(self.checkpoint, str) else self.model()
        if data is None or output is None:
            arc.add_decoder(name, engine, bottleneck=bottleneck, specials=specials, seed=seed)
            return replace(self, checkpoint=arc)
        from szilard.compression.arc_encoder.config import ArcAddDecoderConfig
        from szilard.compression.arc_encoder.training import train_arc_encoder

        chosen = config or ArcAddDecoderConfig(bottleneck=bottleneck, instruct=not specials, seed=seed)
        train_arc_encoder(engine, Path(data), chosen, Path(output), start=arc, names=[name])
        return replace(self, checkpoint=ArcModel.from_pretrained(output))

    def _encoded(
        self, model: ArcModel, documents: Sequence[Sequence[int]], pooling: Pooling, chunk: int | None = None
    ) -> list[torch.Tensor]:
        return model.encode(
            documents,
            pooling,
            chunk=chunk or self.chunk,
            packed=self.packed,
            batch_tokens=self.batch_tokens,
        )
