"""A decoder that reads encoded passages: encode once, prepare a prompt for every question."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from szilard.compression.refrag.add_on import RefragParts
from szilard.compression.refrag.arrangement import arrange, expanded_count
from szilard.compression.refrag.chunks import Chunks, cut_chunks
from szilard.compression.refrag.cost import ReadingCost
from szilard.compression.refrag.prepared import Prepared
from szilard.compression.refrag.selection import POLICIES, by_passage, chunk_nats, policy_logits, ranked
from szilard.compression.refrag.store import ChunkStore
from szilard.engines.engine import Engine
from szilard.engines.model_parts import model_size
from szilard.engines.model_use import running_on
from szilard.engines.prepared_context import SoftPrompt
from szilard.engines.prompt_parts import SEPARATOR, around_context, prompt_inputs
from szilard.options import check_choice, check_number

Part = str | torch.Tensor | ChunkStore
UNTRAINED = (
    "the policy of this refrag add-on was not trained: szilard train refrag --stage policy, or take policy "
    "'perplexity', 'random' or 'none'."
)


class Reader:
    """REFRAG's parts with the decoder that they belong to.

    Args:
        parts: the add-on.
        engine: the decoder, on transformers.

    Raises:
        ValueError: another decoder than the add-on's.
    """

    def __init__(self, parts: RefragParts, engine: Engine) -> None:
        if "embeddings_in" not in engine.provides:
            raise ValueError(f"refrag feeds vectors, which {engine.name} on {engine.kind} does not take.")
        parts.check_base(
            vocab_size=engine.vocab_size, hidden_size=None, name=engine.name, fingerprint=engine.fingerprint
        )
        self.engine = engine
        self.model: Any = engine.model  # type: ignore[attr-defined]
        self.embedding = self.model.get_input_embeddings()
        self.parts = parts.to(self.embedding.weight.device).eval()
        self.encoder_fingerprint = parts.encoder_fingerprint

    # ---- passages --------------------------------------------------------------------------------------------

    @torch.no_grad()
    def encode(self, passages: str | torch.Tensor | Sequence[Any], *, known: ChunkStore | None = None) -> ChunkStore:
        """Cut passages into chunks and encode each by itself; needed once per document, not per question.

        Args:
            passages: texts, or the decoder's token ids (int64 [tokens], without BOS); one or several.
            known: a store whose chunks need not be encoded again.

        Raises:
            ValueError: an empty passage, or a store of another encoder.
        """
        given = [passages] if isinstance(passages, (str, torch.Tensor)) else list(passages)
        if not given:
            raise ValueError("there is no passage to encode: give texts.")
        if known is not None:
            self._check(known)
        cut = [cut_chunks(self.engine.tokenizer, self._ids(passage), self.parts.chunk) for passage in given]
        texts = [text for chunks in cut for text in chunks.texts]
        rows = {} if known is None else dict(zip(known.chunks.texts, known.embeddings, strict=True))
        read = {} if known is None else dict(zip(known.chunks.texts, known.encoder_tokens.tolist(), strict=True))
        fresh = [text for text in dict.fromkeys(texts) if text not in rows]
        places = {text: place for place, text in reversed(list(enumerate(texts)))}  # of equal chunks one is encoded
        encoded = torch.zeros(len(texts), dtype=torch.bool)
        encoded[[places[text] for text in fresh]] = True
        if fresh:
            tokenized = self.parts.encoder.tokenize(fresh)
            rows |= zip(fresh, self.parts.encoder(tokenized).cpu(), strict=True)
            read |= {text: len(ids) for text, ids in zip(fresh, tokenized, strict=True)}
        return ChunkStore(
            Chunks(
                torch.cat([chunks.ids for chunks in cut]),
                torch.cat([chunks.lengths for chunks in cut]),
                tuple(texts),
            ),
            torch.stack([rows[text] for text in texts]),
            torch.repeat_interleave(torch.arange(len(cut)), torch.tensor([len(chunks) for chunks in cut])),
            torch.tensor([read[text] for text in texts]),
            self.encoder_fingerprint,
            encoded,
        )

    def _ids(self, passage: Any) -> torch.Tensor:
        if isinstance(passage, str):
            passage = torch.tensor(self.engine.tokenizer.encode(passage, add_special_tokens=False), dtype=torch.int64)
        if not isinstance(passage, torch.Tensor) or passage.dim() != 1 or passage.dtype != torch.int64:
            raise ValueError("a passage is a text, or its token ids (int64, one dimension).")
        if not len(passage):
            raise ValueError("a passage is empty: leave it out.")
        return passage.cpu()

    def _check(self, store: ChunkStore) -> None:
        if store.encoder != self.encoder_fingerprint:
            raise ValueError(
                f"this chunk store was made by the encoder {store.encoder}, but the add-on has "
                f"{self.encoder_fingerprint}: encode its passages again."
            )

    # ---- prompts ---------------------------------------------------------------------------------------------

    def prepare(
        self,
        question: Any,
        cache: ChunkStore | Sequence[ChunkStore],
        keep: float = 0.1,
        policy: str = "learned",
        *,
        raw: bool = False,
        seed: int = 0,
    ) -> Prepared:
        """Prompts in the form of `szilard.compress`: the passages, then the question, in the first user turn.

        Args:
            question: text or a chat; a list of texts: a batch.
            cache: the passages of every question, or a store for each; one passage stands behind the other, with a
                blank line between.
            keep: p, share of each prompt's chunks that stay tokens; 1: the plain prompt.
            policy: "learned": largest logits; "perplexity": least likely chunks; "perplexity-asc": likeliest;
                "random"; "none": nothing is expanded.
            raw: without the chat template.
            seed: of "random".

        Raises:
            ValueError: settings out of range, a store of another encoder, or a policy that was not trained.
        """
        questions = question if isinstance(question, list) and all(isinstance(q, str) for q in question) else [question]
        stores = [cache] * len(questions) if isinstance(cache, ChunkStore) else list(cache)
        if len(stores) != len(questions) or not questions:
            raise ValueError(f"{len(questions)} questions need one store, or as many, not {len(stores)}.")
        between = torch.tensor(self.engine.tokenizer.encode(SEPARATOR, add_special_tokens=False), dtype=torch.int64)
        rows: list[list[Part]] = []
        for asked, store in zip(questions, stores, strict=True):
            head, tail = (torch.tensor(ids, dtype=torch.int64) for ids in around_context(self.engine, asked, raw))
            row: list[Part] = [head]
            for index in range(store.count):
                row += [between, store.passage(index)] if index else [store.passage(index)]
            rows.append([*row, tail])
        return self.arrange(rows, keep, policy, seed=seed)

    @torch.no_grad()
    def arrange(
        self, rows: Sequence[Sequence[Part]], keep: float = 0.1, policy: str = "learned", *, seed: int = 0
    ) -> Prepared:
        """Prompts of any form: passages stand in front, between turns, anywhere.

        Args:
            rows: per prompt its parts in order: text (without special tokens), int64 ids, or encoded passages.
            keep, policy, seed: see `prepare`; T' = floor(p L) of all of a prompt's chunks.

        Raises:
            ValueError: as `prepare`.
        """
        check_number("keep", keep, low=0, high=1)
        check_choice("policy", policy, POLICIES)
        made: list[list[Any]] = []
        trace, cost = [], []
        for row in rows:
            stores = [part for part in row if isinstance(part, ChunkStore)]
            softs, noted, scored = self._soft(stores, keep, policy, seed)
            waiting = iter(softs)
            parts = [next(waiting) if isinstance(part, ChunkStore) else part for part in row]
            made.append(parts)
            trace.append(noted)
            real = sum(
                len(self.engine.tokenizer.encode(part, add_special_tokens=False))
                if isinstance(part, str)
                else len(part)
                for part in row
                if not isinstance(part, ChunkStore)
            )
            cost.append(self.cost(stores, real + sum(soft.positions for soft in softs), real, scored))
        return Prepared(prompt_inputs(self.engine, made), trace, cost)

    def _soft(
        self, stores: Sequence[ChunkStore], keep: float, policy: str, seed: int
    ) -> tuple[list[SoftPrompt], dict[str, Any], int]:
        if not stores:
            return [], {"expanded": [], "logits": [], "tokens": [], "texts": []}, 0
        joined = ChunkStore.joined(stores)
        self._check(joined)
        sizes = [len(store) for store in stores]
        return self.expand(joined, sizes, policy, count=expanded_count(keep, len(joined)), seed=seed)

    def expand(
        self,
        store: ChunkStore,
        sizes: Sequence[int],
        policy: str,
        *,
        count: int | None = None,
        room: int = 0,
        seed: int = 0,
    ) -> tuple[list[SoftPrompt], dict[str, Any], int]:
        """A prompt's chunks as the decoder reads them.

        Args:
            store: all chunks of the prompt.
            sizes: chunks of each stretch.
            policy, seed: see `prepare`.
            count: T', chunks that stay tokens; None: as many as fit into `room`.
            room: positions to spare beyond one per chunk.

        Returns:
            A soft prompt for each stretch, the trace, and how many tokens the decoder read to find perplexities.
        """
        total, lengths = len(store), store.chunks.lengths
        if count is None and room >= int((lengths - 1).sum()):
            count = total
        scores, scored = torch.full((total,), torch.nan), 0
        if policy == "none" or count == 0:
            expanded = torch.zeros(total, dtype=torch.bool)
        elif count == total:
            expanded = torch.ones(total, dtype=torch.bool)
        else:
            if policy == "learned":
                if not int(self.parts.policy_steps):
                    raise ValueError(UNTRAINED)
                scores = policy_logits(self.parts, store.embeddings)
            elif policy != "random":
                scores, scored = self._nats(store), len(store.chunks.ids)
            order = ranked(policy, scores, torch.Generator().manual_seed(seed))
            if count is None:
                count = int(((lengths[order] - 1).cumsum(0) <= room).sum())
            expanded = torch.zeros(total, dtype=torch.bool)
            expanded[order[:count]] = True
        softs = []
        device = self.embedding.weight.device
        token_parts = store.chunks.ids.split(
            [int(n.sum()) for n in by_passage(store.chunks.lengths, sizes)]
        )  # of each stretch
        stretches = (by_passage(whole, sizes) for whole in (store.chunks.lengths, store.embeddings, expanded))
        for ids, lengths, embeddings, mask in zip(token_parts, *stretches, strict=True):
            vectors = self.parts.project(embeddings.to(device))
            rows = arrange(self.embedding, ids.to(device), lengths.to(device), vectors, mask.to(device))
            softs.append(SoftPrompt(rows, len(ids), "refrag", self.engine.fingerprint))
        noted = {
            "expanded": expanded.tolist(),
            "logits": [None if math.isnan(score) else score for score in scores.tolist()],
            "tokens": store.chunks.lengths.tolist(),
            "texts": list(store.chunks.texts),
        }
        return softs, noted, scored

    def _nats(self, store: ChunkStore) -> torch.Tensor:
        """Of every chunk in its passage, under the decoder as it was before it learned to read chunks."""
        start = around_context(self.engine, torch.zeros(0, dtype=torch.int64))[0]
        found = []
        for index in range(store.count):
            one = store.passage(index)
            found.append(chunk_nats(self.model, one.chunks.ids, one.chunks.lengths, start))
        return torch.cat(found)

    def cost(self, stores: Sequence[ChunkStore], positions: int, real: int, scored: int) -> ReadingCost:
        """Counts of one prompt with so many decoder positions, `real` of them tokens outside the passages."""
        bytes_each = model_size(self.model).kv_bytes_per_token
        fresh = sum(store.fresh_tokens for store in stores)
        read = sum(int(store.encoder_tokens.sum()) for store in stores)
        plain = real + sum(len(store.chunks.ids) for store in stores)
        return ReadingCost(
            positions, plain, fresh, max(0, read - fresh), scored, positions * bytes_each, plain * bytes_each
        )

    # ---- decoding --------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """While this is open the decoder has the add-on's low-rank changes; without any, nothing happens."""
        if self.parts.changes is None:
            yield
            return
        with running_on(self.model, alone=True), self.parts.applied(self.model):
            yield

    @torch.no_grad()
    def generate(self, question: Any, cache: ChunkStore | Sequence[ChunkStore], **options: Any) -> list[str]:
        """Answers, greedy unless told otherwise.

        Args:
            question, cache: see `prepare`.
            options: of `prepare` and of transformers' `generate`.
        """
        own = {name: options.pop(name) for name in ("keep", "policy", "raw", "seed") if name in options}
        prepared = self.prepare(question, cache, **own)
        options = {"do_sample": False, "max_new_tokens": 64} | options
        with self.applied():
            tokens = self.model.generate(**prepared, **options)
        return list(self.engine.tokenizer.batch_decode(tokens, skip_special_tokens=True))
