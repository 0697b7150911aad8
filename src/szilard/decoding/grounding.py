"""A grounding space: how the model itself continued texts that are known to be true.

Verified answers are replayed once through the model. For every position of every answer the space keeps a sentence
embedding of the last few tokens (the key) and the model's next-token logits there (the value):

    entry (q, a, s):   text = decode(last M ids of prompt(q) + a_1 .. a_{s-1})      e = E(text) / |E(text)|
                       l = next-token logits after prompt(q) + a_1 .. a_{s-1}

`szilard.Caad` looks up the entries that resemble the text it is writing. Source: Nguyen, Gupta, Le, arXiv 2508.02184.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from szilard.decoding.grounding_examples import Example, checked_examples
from szilard.decoding.grounding_files import read_header, read_space, write_space
from szilard.decoding.grounding_replay import replay
from szilard.decoding.neighbours import search_over
from szilard.decoding.sentence_encoder import DEFAULT_ENCODER, Encode, Encoder, as_encoder
from szilard.options import check_number

NEIGHBOURS_EXAMINED = 2048

_SAME_ENCODER = 0.99  # cosine between a stored embedding and a fresh one of the same text
_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64}


class GroundingSpace:
    """Embeddings and logits of verified answers; `build` or `load` makes one. Two spaces are equal if they are one.

    Args:
        embeddings: unit vectors [entries, dimension], float32.
        logits: [entries, vocab]; or with `token_ids` the largest k of each row, descending, [entries, k].
        contexts: the text of every key.
        next_ids, question_ids, steps: int64 [entries]: the answer's token there, its question's number, its position
            in the answer (1-based).
        tokenizer: the model's; turns ids into the text of a key.
        encoder: what made the embeddings.
        context: M, tokens of a key; None: the whole text.
        model: name of the model. Spaces are refused by a model of another name; assign to it if yours was renamed.
        vocab_size: width of the model's logits.
        template: hash of the chat template that the prompts were written with ("" without one).
        token_ids: int32 [entries, k] with sparse storage; all other tokens count as the row's k-th logit.
    """

    def __init__(
        self,
        *,
        embeddings: torch.Tensor,
        logits: torch.Tensor,
        contexts: Sequence[str],
        next_ids: torch.Tensor,
        question_ids: torch.Tensor,
        steps: torch.Tensor,
        tokenizer: Any,
        encoder: Encoder,
        context: int | None,
        model: str,
        vocab_size: int,
        template: str = "",
        token_ids: torch.Tensor | None = None,
    ) -> None:
        for name, values in (
            ("logits", logits),
            ("contexts", contexts),
            ("next_ids", next_ids),
            ("question_ids", question_ids),
            ("steps", steps),
        ):
            if len(values) != len(embeddings):
                raise ValueError(f"{name} has {len(values)} entries, but embeddings has {len(embeddings)}.")
        if token_ids is None and logits.shape[-1] != vocab_size:
            raise ValueError(f"logits has {logits.shape[-1]} columns for a vocabulary of {vocab_size}.")
        self.embeddings, self.logits, self.token_ids = embeddings, logits, token_ids
        self.contexts = list(contexts)
        self.next_ids, self.question_ids, self.steps = next_ids, question_ids, steps
        self.tokenizer, self.encoder = tokenizer, encoder
        self.context, self.model, self.vocab_size, self.template = context, model, vocab_size, template
        self._order: torch.Tensor | None = None  # of a shuffled control: whose logits each key has
        self._entries_of: dict[str, list[int]] | None = None
        self._nearest: Callable[[torch.Tensor, int], tuple[torch.Tensor, torch.Tensor]] | None = None
        self._encoder_checked = False

    def __len__(self) -> int:
        return len(self.embeddings)

    def __repr__(self) -> str:
        context = "full" if self.context is None else self.context
        return f"<GroundingSpace {len(self)} entries, {self.model}, context {context}>"

    # ---- making one ------------------------------------------------------------------------------------------

    @classmethod
    def build(
        cls,
        model: Any,
        tokenizer: Any = None,
        examples: Sequence[Example] = (),
        *,
        encoder: str | Path | Encoder | Encode = DEFAULT_ENCODER,
        context: int | None = 8,
        dtype: torch.dtype = torch.float16,
        batch_size: int = 8,
        top_k_logits: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> GroundingSpace:
        """Replay verified answers through a model.

        A question becomes one user turn of the chat template (raw text for a model without one) and runs once; its
        answers run on forks of that, so nothing is padded on the left.

        Args:
            model: a szilard engine, or a transformers model together with
            tokenizer: its tokenizer.
            examples: (question, answers) pairs, the best answer first; repeated answers count once.
            encoder: a name or folder for `load_encoder`, or a function: list of texts -> vectors [texts, dimension].
            context: M, tokens of a key; None: the whole text so far.
            dtype: what the logits are stored in. An entry takes `vocab` of these numbers.
            batch_size: answers of a question at once.
            top_k_logits: store only the largest k per row (the others count as the k-th); None: all.
            progress: called with (questions done, questions in all).

        Raises:
            ValueError, TypeError: bad input, before the model runs; no such encoder; a question and answer that exceed
                the context window.
        """
        from szilard.engines.engine import Engine
        from szilard.engines.transformers_engine import TransformersEngine

        # 1. Everything that can be wrong.
        check_number("context", context, low=1, integer=True, optional=True)
        check_number("batch_size", batch_size, low=1, integer=True)
        if dtype not in _DTYPES.values():
            raise ValueError(f"dtype must be one of {', '.join(_DTYPES)}, not {dtype!r}.")
        questions = checked_examples(examples)
        engine = model if isinstance(model, Engine) else TransformersEngine(model, tokenizer)
        check_number("top_k_logits", top_k_logits, low=1, high=engine.vocab_size, integer=True, optional=True)
        embed = as_encoder(encoder)
        tokenised = [
            [ids for a in answers if (ids := engine.tokenizer.encode(a, add_special_tokens=False))]
            for _, answers in questions
        ]
        entries = sum(len(ids) for answers in tokenised for ids in answers)

        # 2. One forward per answer; the row before a token predicts it.
        width = engine.vocab_size
        logits = torch.empty(entries, top_k_logits or width, dtype=dtype)
        token_ids = None if top_k_logits is None else torch.empty(entries, top_k_logits, dtype=torch.int32)
        found = replay(engine, questions, tokenised, context, batch_size, logits, token_ids, progress)

        # 3. The keys.
        embeddings = torch.cat([embed(found.contexts[at : at + 512]) for at in range(0, entries, 512)])
        return cls(
            embeddings=embeddings,
            logits=logits,
            contexts=found.contexts,
            next_ids=torch.tensor(found.next_ids),
            question_ids=torch.tensor(found.question_ids),
            steps=torch.tensor(found.steps),
            tokenizer=engine.tokenizer,
            encoder=embed,
            context=context,
            model=found.model,
            vocab_size=width,
            template=template_hash(engine),
            token_ids=token_ids,
        )

    def shuffled(self, seed: int = 0) -> GroundingSpace:
        """The control: the same keys with the logits of other entries, permuted at random."""
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        control = self._with()
        control._order = order if self._order is None else self._order[order]
        return control

    def to(self, device: str | torch.device) -> GroundingSpace:
        """The same space with its keys and logits on a device, where the sums are then made."""
        moved = self._with(
            embeddings=self.embeddings.to(device),
            logits=self.logits.to(device),
            token_ids=None if self.token_ids is None else self.token_ids.to(device),
        )
        moved._order = self._order
        return moved

    def _with(self, **changed: Any) -> GroundingSpace:
        names = "embeddings logits contexts next_ids question_ids steps tokenizer encoder context model vocab_size"
        values = {name: getattr(self, name) for name in (*names.split(), "template", "token_ids")}
        return GroundingSpace(**(values | changed))

    # ---- looking up ------------------------------------------------------------------------------------------

    def encode(self, texts: Sequence[str]) -> torch.Tensor:
        """Unit vectors of context texts, float32 [texts, dimension]."""
        return self.encoder(texts)

    def search(self, queries: torch.Tensor, k: int = NEIGHBOURS_EXAMINED) -> tuple[torch.Tensor, torch.Tensor]:
        """The nearest keys, nearest first.

        Args:
            queries: unit vectors [batch, dimension].
            k: how many, at most.

        Returns:
            Cosine similarities float32 [batch, k'], at most 1, and entries int64 [batch, k'] with k' = min(k, entries).
        """
        k = min(k, len(self))
        if k == 0:
            return queries.new_zeros(len(queries), 0), torch.zeros(len(queries), 0, dtype=torch.long)
        if self._nearest is None:
            self._nearest = search_over(self.embeddings)
        similarities, entries = self._nearest(queries.to(self.embeddings), k)
        return similarities.clamp(max=1.0), entries

    def rows(self, entries: torch.Tensor) -> torch.Tensor:
        """The logits of entries, [n] -> float32 (float64 if stored so) [n, vocab]."""
        entries = entries.cpu()
        if self._order is not None:
            entries = self._order[entries]
        entries = entries.to(self.logits.device)
        values = self.logits[entries]
        values = values.to(torch.promote_types(values.dtype, torch.float32))
        if self.token_ids is None:
            return values
        dense = values[:, -1:].expand(-1, self.vocab_size).clone()
        return dense.scatter_(1, self.token_ids[entries].long(), values)

    def entries_of(self, text: str) -> list[int]:
        """The entries whose context is exactly this text."""
        if self._entries_of is None:
            grouped: dict[str, list[int]] = defaultdict(list)
            for entry, context in enumerate(self.contexts):
                grouped[context].append(entry)
            self._entries_of = dict(grouped)
        return self._entries_of.get(text, [])

    @cached_property
    def fingerprint(self) -> str:
        """A short hash that tells this space from others; of the logits, 64 rows are looked at."""
        content = hashlib.sha256(json.dumps([self.model, self.encoder.name, self.context, self.contexts]).encode())
        rows = torch.linspace(0, max(len(self) - 1, 0), min(len(self), 64)).long()
        for tensor in (self.embeddings, self.next_ids, self.rows(rows)):
            content.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
        return content.hexdigest()[:12]

    # ---- refusing --------------------------------------------------------------------------------------------

    def check(self, state: Any) -> None:
        """Refuse a decoding state of another model, and an encoder that did not make these embeddings.

        Raises:
            ValueError: the vocabulary, the model's name, the chat template or the encoder differ.
        """
        self.check_width(state.vocab_size)
        name = state.model_name
        if name != self.model:
            raise ValueError(
                f"this grounding space was built with {self.model!r}, not {name!r}: build one with this model (or, if "
                f"it is the same model under another name, set space.model = {name!r})."
            )
        # An engine hands its own bound methods to the state; inside a plain `generate` there is no tokenizer to see.
        owner = getattr(state.encode, "__self__", None)
        if getattr(owner, "tokenizer", None) is not None:
            self._check_template(template_hash(owner))
        self.check_encoder()

    def check_width(self, vocab_size: int) -> None:
        """Refuse logits of another width.

        Raises:
            ValueError: they are.
        """
        if vocab_size != self.vocab_size:
            raise ValueError(
                f"this grounding space holds logits over {self.vocab_size} tokens ({self.model}), but the model has "
                f"{vocab_size}: build one with this model."
            )

    def check_encoder(self) -> None:
        """Refuse an encoder that gives other embeddings than the stored ones (looked at once).

        Raises:
            ValueError: it does.
        """
        if self._encoder_checked or not len(self):
            return
        fresh, stored = self.encode(self.contexts[:1])[0], self.embeddings[0].float().cpu()
        if fresh.shape != stored.shape or (float(stored.norm()) > 0 and float(fresh @ stored) < _SAME_ENCODER):
            raise ValueError(
                f"the encoder {self.encoder.name} does not give the embeddings of this grounding space: load it with "
                "the encoder that it was built with."
            )
        self._encoder_checked = True

    def _check_template(self, template: str) -> None:
        if template != self.template:
            raise ValueError(
                f"this grounding space was built with another chat template of {self.model}: build it anew with this "
                "tokenizer."
            )

    # ---- on disk ---------------------------------------------------------------------------------------------

    def save(self, folder: str | Path) -> Path:
        """Write the space into a folder, all or nothing: header, entries (safetensors), contexts and tokenizer.

        Raises:
            ValueError: the folder exists and is no grounding space.
        """
        order = slice(None) if self._order is None else self._order
        tensors = {
            "embeddings": self.embeddings,
            "logits": self.logits[order],
            "next_ids": self.next_ids,
            "question_ids": self.question_ids,
            "steps": self.steps,
        }
        if self.token_ids is not None:
            tensors["token_ids"] = self.token_ids[order]
        header = {
            "model": self.model,
            "vocab_size": self.vocab_size,
            "encoder": self.encoder.name,
            "encoder_given": self.encoder.given,
            "template": self.template,
            "context": self.context,
            "dtype": str(self.logits.dtype).removeprefix("torch."),
            "entries": len(self),
        }
        return write_space(Path(folder), header, tensors, self.contexts, self.tokenizer)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        encoder: str | Path | Encoder | Encode | None = None,
        tokenizer: Any = None,
    ) -> GroundingSpace:
        """Open a saved space; the logits stay on disk, memory-mapped.

        Args:
            folder: what `save` wrote.
            encoder: in place of the one named in the header; needed if the space was built with a function.
            tokenizer: in place of the saved one; refused if its chat template differs.

        Raises:
            ValueError: no grounding space, a damaged one, one of a newer version, or no encoder for it.
        """
        folder = Path(folder)
        header = read_header(folder)
        if encoder is None and header["encoder_given"]:
            raise ValueError(
                f"the grounding space {str(folder)!r} was built with the function {header['encoder']}: give it again, "
                "as in GroundingSpace.load(folder, encoder=function)."
            )
        tensors, contexts, saved = read_space(folder, tokenizer)
        space = cls(
            **tensors,
            contexts=contexts,
            tokenizer=saved,
            encoder=as_encoder(header["encoder"] if encoder is None else encoder),
            context=header["context"],
            model=header["model"],
            vocab_size=header["vocab_size"],
            template=header["template"],
        )
        if tokenizer is not None:
            space._check_template(template_hash(tokenizer))
        space.check_encoder()
        return space


def template_hash(owner: Any) -> str:
    """A short hash of the chat template that an engine or tokenizer writes prompts with; "" without one."""
    holders = [getattr(owner, "processor", None), getattr(owner, "tokenizer", None), owner]
    template = next((found for holder in holders if (found := getattr(holder, "chat_template", None))), None)
    return "" if not template else hashlib.sha256(json.dumps(template, sort_keys=True).encode()).hexdigest()[:16]
