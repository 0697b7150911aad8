"""REFRAG: one vector per chunk of a retrieved passage, and a policy that leaves the chunks that matter as tokens.

Lin, Ghosh, Low, Shrivastava, Mohan 2025, "REFRAG: Rethinking RAG based Decoding", arXiv 2509.01092.

A context of s tokens is cut into L = s / k chunks C_i. An encoder that sees neither the question nor other chunks, and
an MLP of two layers, make a vector of each; T' = floor(p L) chunks stay tokens, in their place:

    c_i = M_enc(C_i)                       [d_e]
    e_i = phi(c_i)                         [d]
    E(x, l) = concat over i of: e_i if i not in l, else the token embeddings of C_i          [(L - T') + k T', d]

The decoder reads E(x, l) where the context would stand, at consecutive positions, under its ordinary causal mask.

Inferred, since the paper leaves it open: the encoder's pooling (first state), activation and biases of phi (GELU, yes),
its scale at the start (that of token embeddings), the policy's width, heads and lack of positions, G = 8 and eps = 0.2,
and that chunks end with whole characters.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, overload

import torch

from szilard.compression.method import Budget, SoftCompressor, check_budget, tokens_of_budget
from szilard.compression.refrag.add_on import RefragParts
from szilard.compression.refrag.arrangement import expanded_count
from szilard.compression.refrag.chunks import leading_specials
from szilard.compression.refrag.reader import UNTRAINED, Reader
from szilard.compression.refrag.selection import POLICIES
from szilard.compression.refrag.store import ChunkStore
from szilard.engines.prepared_context import SoftPrompt
from szilard.engines.transformers_engine import TransformersEngine
from szilard.options import check_choice, check_number
from szilard.training.add_on import opened

if TYPE_CHECKING:
    from szilard.engines.engine import Engine


@dataclass(frozen=True)
class Refrag(SoftCompressor):
    """Chunks as vectors, a few of them as tokens.

    Attributes:
        checkpoint: a `RefragParts`, or the folder or hub id of one; `szilard train refrag` makes it.
        keep: p, share of the chunks that stay tokens, T' = floor(p L); 1: the context as it is.
        policy: which: "learned", "perplexity" (the least likely under the decoder), "perplexity-asc", "random", or
            "none": all chunks are compressed, whatever `keep` says.
        seed: of "random".
    """

    slug: ClassVar[str] = "refrag"
    paper: ClassVar[str] = "Lin et al. 2025, arXiv 2509.01092"

    checkpoint: RefragParts | str | None = None
    keep: float = 0.1
    policy: str = "learned"
    seed: int = 0

    def __post_init__(self) -> None:
        check_number("keep", self.keep, low=0, high=1)
        check_choice("policy", self.policy, POLICIES)
        check_number("seed", self.seed, low=0, integer=True)
        if isinstance(self.checkpoint, Path):
            object.__setattr__(self, "checkpoint", str(self.checkpoint))
        if self.checkpoint is not None and not isinstance(self.checkpoint, (str, RefragParts)):
            raise TypeError(f"checkpoint must be a RefragParts, its folder or hub id, not {self.checkpoint!r}.")

    @classmethod
    def neutral(cls) -> Refrag:
        """All chunks stay tokens."""
        return cls(keep=1.0)

    @overload
    @classmethod
    def from_pretrained(cls, folder: str | Path, *, model: None = None, **options: Any) -> Refrag: ...

    @overload
    @classmethod
    def from_pretrained(cls, folder: str | Path, *, model: Any, **options: Any) -> Reader: ...

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, model: Any = None, **options: Any) -> Refrag | Reader:
        """The method with the parts in a folder or hub repository; with its decoder, the two together.

        Args:
            folder: with the add-on.
            model: an engine on transformers, or a model of transformers (then give its `tokenizer`, too).
            options: of the method, or `tokenizer`.

        Raises:
            ValueError: there is no add-on, it is broken, or it belongs to another decoder.
        """
        parts = RefragParts.from_pretrained(folder)
        if model is None:
            return cls(checkpoint=parts, **options)
        tokenizer = options.pop("tokenizer", None)
        if options:
            raise ValueError(f"a reader has no option {next(iter(options))!r}: give it to prepare().")
        if not hasattr(model, "fingerprint"):
            model = TransformersEngine(model, tokenizer)
        return Reader(parts, model)

    def reader(self, engine: Engine) -> Reader:
        """The parts with the decoder on an engine.

        Raises:
            ValueError: no parts, or those of another decoder.
        """
        return Reader(self.parts(), engine)

    def parts(self) -> RefragParts:
        """The add-on.

        Raises:
            ValueError: none was given, or it is broken.
        """
        if self.checkpoint is None:
            raise ValueError(
                "refrag needs trained parts: checkpoint='folder or hub id'; `szilard train refrag --stage "
                "reconstruction --model ... --data ... -o folder` makes the first of them."
            )
        return opened(RefragParts, self.checkpoint) if isinstance(self.checkpoint, str) else self.checkpoint

    def _parts_alone(self) -> RefragParts:
        """The add-on, which leaves the decoder as it is.

        Raises:
            ValueError: as `parts`; or it has changes of the decoder.
        """
        parts = self.parts()
        if parts.changes is not None:
            raise ValueError(
                "these refrag parts have low-rank changes of the decoder, which engine.generate does not apply: ask "
                "through Refrag(...).reader(engine).generate(question, passages), which does, or train without --lora."
            )
        return parts

    def check(self, engine: Engine | None = None) -> None:
        """Refuse missing or broken parts, those of another decoder, and a policy that was not trained.

        Also parts with low-rank changes of the decoder, which `engine.generate` would read the vectors without.
        """
        if self.keep >= 1 and self.policy != "none":
            return
        parts = self._parts_alone()
        if self.policy == "learned" and self.keep > 0 and not int(parts.policy_steps):
            raise ValueError(UNTRAINED)
        if engine is not None:
            parts.check_base(
                vocab_size=engine.vocab_size, hidden_size=None, name=engine.name, fingerprint=engine.fingerprint
            )

    def recorded_options(self, engine: Engine) -> dict[str, Any]:
        """The parts by the hash of their weights."""
        changed = self.changed_options()
        return changed if self.checkpoint is None else changed | {"checkpoint": self.parts().fingerprint}

    @torch.no_grad()
    def compress(self, contexts: Sequence[Any], budget: Budget = None, *, engine: Engine) -> list[SoftPrompt]:
        """Compress each context for the model of an engine; see `SoftCompressor.compress`.

        A budget counts decoder positions: as many chunks are expanded as fit, by `policy`. Special tokens that ids
        begin with stay tokens, and so does everything where the budget is the whole context.

        Raises:
            ValueError: an empty context, a budget below one position per chunk, missing or foreign parts, or parts with
                low-rank changes of the decoder.
        """
        check_budget(budget)
        embed = engine.model.get_input_embeddings()  # type: ignore[attr-defined]
        device = embed.weight.device
        reader: Reader | None = None
        made = []
        for context in contexts:
            begun = time.perf_counter()
            ids = _ids(context, engine)
            whole = self.keep >= 1 and self.policy != "none" if budget is None else False
            if budget is not None:
                whole = tokens_of_budget(budget, len(ids)) == len(ids)
            if whole:
                seconds = {"encoder_tokens": 0.0, "seconds": time.perf_counter() - begun}
                made.append(SoftPrompt(embed(ids.to(device)), len(ids), self.slug, engine.fingerprint, {}, seconds))
                continue
            if reader is None:
                self.check(engine) if budget is None else self._parts_alone()
                reader = self.reader(engine)
            first = leading_specials(engine.tokenizer, ids)
            if first == len(ids):
                raise ValueError("a context holds nothing but special tokens: leave it out.")
            store = reader.encode(ids[first:])
            chosen: dict[str, Any] = {"count": expanded_count(self.keep, len(store))}
            if budget is not None:
                chosen = {"room": _room(budget, first, store, reader.parts.chunk)}
            (soft,), trace, scored = reader.expand(store, [len(store)], self.policy, seed=self.seed, **chosen)
            vectors = torch.cat([embed(ids[:first].to(device)), soft.embeddings])
            cost = reader.cost([store], len(vectors), first, scored).to_dict()
            cost["seconds"] = time.perf_counter() - begun
            made.append(replace(soft, embeddings=vectors, original_tokens=len(ids), trace=trace, cost=cost))
        return made


def _ids(context: Any, engine: Engine) -> torch.Tensor:
    """A context's token ids, int64 [tokens], on the CPU."""
    if isinstance(context, str):
        context = torch.tensor(engine.tokenizer.encode(context, add_special_tokens=False), dtype=torch.int64)
    if not isinstance(context, torch.Tensor) or context.dim() != 1 or context.dtype != torch.int64:
        raise TypeError("a context must be a text, or its token ids (int64, one dimension).")
    if not len(context):
        raise ValueError("a context is empty: leave it out.")
    return context.cpu()


def _room(budget: float | int, first: int, store: ChunkStore, chunk: int) -> int:
    """Positions of a budget beyond one per chunk and the special tokens in front.

    Raises:
        ValueError: not even all chunks as vectors fit.
    """
    tokens = first + len(store.chunks.ids)
    allowed, least = tokens_of_budget(budget, tokens), first + len(store)
    if allowed < least:
        raise ValueError(
            f"a budget of {budget!r} leaves {allowed} positions, but {tokens} tokens in chunks of {chunk} take at "
            f"least {least}: give a larger one, or parts with longer chunks."
        )
    return allowed - least
