"""What ARC-Encoder learns from passages: to repeat a context from its vectors, and to go on behind them.

ARC-Encoder (Pilchen, Grave, Perez 2025, arXiv 2510.20535):

    reconstruction (20 % of the batches)    z(x_1..n) <Rec> x_1 | x_2 .. x_n
    continuation (80 %)                     text z(x_1..n) <Cont> x_{n+1} | x_{n+2} ..     text: up to 256 plain tokens

What stands behind | is the loss: outputs at vectors are dropped, so the first token behind them is read and not
learned. Decoders that follow instructions are asked in words, and every token of the answer counts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from szilard.compression.arc_encoder.config import ArcConfig
from szilard.compression.arc_encoder.model import ArcModel
from szilard.compression.passages import Passages
from szilard.compression.teacher_forcing import Forced, Measured, teacher_forced
from szilard.engines.engine import Engine
from szilard.engines.prompt_parts import around_context
from szilard.training.hidden_states import Tokens

MARK = "\ue000vectors\ue000"  # private use characters, which no text holds
_ASKED = {
    "rec": (f"Text:\n\n{MARK}\n Replicate the input text.", "Replicated text:\n"),
    "cont": (f"Text:\n\n{MARK}\n Continue the previous text.", "Text continuation:\n"),
}
_ALL = 2**31  # places of a forward: a batch is encoded at once


class Interleaved(Passages):
    """Passages that also know what stands in front of their context: "before" int64 [up to before].

    Args:
        tokens, context, target: see `Passages`.
        before: tokens in front, at most.
    """

    def __init__(self, tokens: Tokens, context: int, target: int, before: int) -> None:
        super().__init__(tokens, context, target)
        self.before = before
        self.starts = [int(tokens.offsets[text]) for text in self.texts]

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        first = self.spans[index][0]
        ahead = self.ids[max(self.starts[index], first - self.before) : first]
        return super().__getitem__(index) | {"before": torch.tensor(ahead.tolist(), dtype=torch.int64)}

    @staticmethod
    def collate(items: Sequence[dict[str, Tensor]]) -> dict[str, list[Tensor]]:
        """{"contexts", "targets", "befores"}: a list of int64 [n] each."""
        return Passages.collate(items) | {"befores": [item["before"] for item in items]}


class ArcObjective(nn.Module):
    """What all trainings share: the encoder, the sides that learn, and the frozen decoders.

    Args:
        arc: the add-on; its modules are trained in place.
        engines: decoders by their name in it, frozen; the first one's tokens are those of the data.
        config: the settings.
    """

    skips_parameters = True  # a step trains one decoder's side, and one of <Cont> and <Rec>

    def __init__(self, arc: ArcModel, engines: Mapping[str, Engine], config: ArcConfig) -> None:
        super().__init__()
        self.settings = config
        self.engines = dict(engines)
        self.kept = (arc,)  # no submodule: what is frozen is in no checkpoint
        self.sides = nn.ModuleDict({name: arc.sides[name] for name in engines})
        if config.freeze_encoder:
            arc.encoder.requires_grad_(False)
        else:
            self.encoder = arc.encoder
        self.done: Tensor  # a buffer, so that a checkpoint holds it
        self.register_buffer("done", torch.tensor(0))
        first = next(iter(self.engines.values())).tokenizer
        self.first_tokenizer = first
        self.encoder_shares = arc.shares_tokens(first)
        self.shares = {
            name: engine.tokenizer is first or engine.tokenizer.get_vocab() == first.get_vocab()
            for name, engine in self.engines.items()
        }
        # the tokenizer's own first tokens (BOS), before the first part of a prompt
        self.begins = {name: around_context(engine, torch.empty(0))[0] for name, engine in self.engines.items()}

    @property
    def arc(self) -> ArcModel:
        """The add-on."""
        return self.kept[0]

    def learning_rate_of(self, name: str) -> float:
        """The largest learning rate of a parameter of this objective."""
        if name.startswith("encoder."):
            return self.settings.learning_rate
        special = name.rpartition(".")[2] in ("cont", "rec")
        return self.settings.special_learning_rate if special else self.settings.projector_learning_rate

    def draws(self) -> torch.Generator:
        """The stream of this step's draws, the same in every process and in a run that was resumed."""
        return torch.Generator().manual_seed(self.settings.seed * 1_000_003 + int(self.done))

    def decoder_of_step(self, generator: torch.Generator) -> str:
        """# Paper: alternating steps share a batch; here: each step has the loop's next batch."""
        names = list(self.engines)
        if self.settings.decoder_steps == "alternating":
            return names[int(self.done) % len(names)]
        return names[int(torch.randint(len(names), (), generator=generator))]

    def vectors(self, documents: Sequence[Sequence[int]], name: str, token: str = "cont") -> list[Tensor]:
        """Vectors of documents for a decoder, [m + 1, d] each, with gradients.

        Args:
            documents: in the encoder's tokens.
            name: of the decoder.
            token: "cont" or "rec".
        """
        frozen = torch.no_grad() if self.settings.freeze_encoder else contextlib.nullcontext()
        with frozen:
            states = self.arc.encode(documents, chunk=self.settings.chunk, batch_tokens=_ALL)
        return [self.arc.project(state, name, token) for state in states]

    def embedded(self, name: str, ids: Any) -> Tensor:
        """A decoder's embeddings of token ids, [n, d]."""
        embed = self.engines[name].model.get_input_embeddings()  # type: ignore[attr-defined]
        return embed(torch.as_tensor(ids, dtype=torch.int64, device=embed.weight.device))

    def for_encoder(self, rows: Sequence[Tensor]) -> list[list[int]]:
        """Ids of the first decoder's tokenizer in the encoder's tokens."""
        if self.encoder_shares:
            return [row.tolist() for row in rows]
        return [self.arc.tokens(self.first_tokenizer.decode(row)) for row in rows]

    def for_decoder(self, rows: Sequence[Tensor], name: str) -> list[Tensor]:
        """Ids of the first decoder's tokenizer in another decoder's tokens."""
        if self.shares[name]:
            return list(rows)
        tokenizer, device = self.engines[name].tokenizer, rows[0].device
        texts = [self.first_tokenizer.decode(row) for row in rows]
        return [torch.tensor(tokenizer.encode(text, add_special_tokens=False), device=device) for text in texts]

    def around(self, name: str, content: str) -> tuple[list[int], list[int]]:
        """Ids in front of and behind the mark in a user turn of a decoder's chat template.

        Raises:
            ValueError: a decoder without a chat template.
        """
        engine = self.engines[name]
        if not engine.has_chat_template:
            raise ValueError(f"{engine.name} has no chat template, so it cannot be asked in words: leave out instruct.")
        turn = [{"role": "user", "content": content}]
        text = engine.tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
        head, _, tail = text.partition(MARK)
        encode = engine.tokenizer.encode
        return encode(head, add_special_tokens=False), encode(tail, add_special_tokens=False)


class PassageObjective(ArcObjective):
    """Reconstruction and continuation: {"loss" (nats per token), "right" (share of the tokens)}."""

    def __init__(self, arc: ArcModel, engines: Mapping[str, Engine], config: ArcConfig) -> None:
        super().__init__(arc, engines, config)
        self.wraps: dict[tuple[str, str], tuple[list[int], list[int]]] = {}
        for name, engine in self.engines.items() if config.instruct else ():
            for task, (asked, opening) in _ASKED.items():
                head, tail = self.around(name, asked)
                answer = engine.tokenizer.encode(opening, add_special_tokens=False)
                self.wraps[name, task] = head, tail + answer

    def forward(self, contexts: list[Tensor], targets: list[Tensor], befores: list[Tensor]) -> dict[str, Tensor]:
        """One batch, int64 [n] per row, in the first decoder's tokens."""
        generator = self.draws()
        name = self.decoder_of_step(generator)
        task = "rec" if float(torch.rand((), generator=generator)) < self.settings.reconstruction else "cont"
        kept = [int(torch.randint(len(row) + 1, (), generator=generator)) for row in befores]
        fronts = [row[len(row) - size :] for row, size in zip(befores, kept, strict=True)]
        if self.training:
            self.done += 1
        found = self.forced(self.vectors(self.for_encoder(contexts), name, task), contexts, targets, fronts, name, task)
        return {"loss": found.loss, "right": found.right}

    def forced(
        self,
        middles: Sequence[Tensor],
        contexts: Sequence[Tensor],
        targets: Sequence[Tensor],
        fronts: Sequence[Tensor] | None,
        name: str,
        task: str,
    ) -> Forced:
        """The loss behind what stands for the contexts.

        Args:
            middles: vectors [m, d] per row in the place of each context.
            contexts, targets: ids of the first decoder's tokenizer.
            fronts: plain tokens in front of a context that is continued, or None.
            name: of the decoder.
            task: "rec" or "cont".
        """
        model = self.engines[name].model  # type: ignore[attr-defined]
        wanted = self.for_decoder(contexts if task == "rec" else targets, name)
        if self.settings.instruct:
            head, tail = self.wraps[name, task]
            ends = self.embedded(name, head), self.embedded(name, tail)
            before = [torch.cat([ends[0], middle.to(ends[0].dtype), ends[1]]) for middle in middles]
            return teacher_forced(model, before, wanted, first=True)
        # (inferred) a context that is repeated has no text in front of it.
        plain: Sequence[Any] = [()] * len(middles)
        if fronts is not None and task == "cont":
            plain = self.for_decoder(fronts, name)
        before = []
        for middle, front in zip(middles, plain, strict=True):
            text = self.embedded(name, [*self.begins[name], *map(int, front)])
            before.append(torch.cat([text, middle.to(text.dtype)]))
        return teacher_forced(model, before, wanted, first=False)

    @torch.no_grad()
    def measure(self, data: Any, *, most: int = 512) -> dict[str, float]:
        """On held-out passages, per decoder, nats per token of what follows.

        Args:
            data: passages by index.
            most: passages that are looked at.

        Returns:
            "nll" (behind the vectors), "nll_without" (the first token of the target alone), "nll_full" (behind the
            context's own tokens), "closed" (the share of the gap between these that the vectors close), and of
            repeating the context "nll_reconstruction" and "copied" (share of the tokens). With several decoders the
            names end in the decoder's.
        """
        self.eval()
        found: dict[str, float] = {}
        count, size = min(len(data), most), self.settings.batch_size
        device = self.arc.encoder.embed_tokens.weight.device
        for name in self.engines:
            behind = Measured()
            for start in range(0, count, size):
                batch = Interleaved.collate([data[index] for index in range(start, min(start + size, count))])
                contexts = [row.to(device) for row in batch["contexts"]]
                targets = [row.to(device) for row in batch["targets"]]
                documents = self.for_encoder(contexts)
                nothing = [self.embedded(name, []) for _ in contexts]
                arms = {
                    "nll": (self.vectors(documents, name), "cont"),
                    "nll_without": (nothing, "cont"),
                    "nll_full": ([self.embedded(name, row) for row in self.for_decoder(contexts, name)], "cont"),
                    "nll_reconstruction": (self.vectors(documents, name, "rec"), "rec"),
                }
                for arm, (middles, task) in arms.items():
                    behind.add(arm, self.forced(middles, contexts, targets, None, name, task))
            own = {arm: behind.nats(arm) for arm in ("nll", "nll_without", "nll_full", "nll_reconstruction")}
            own["copied"] = behind.right("nll_reconstruction")
            gap = own["nll_without"] - own["nll_full"]
            own["closed"] = (own["nll_without"] - own["nll"]) / gap if gap else 0.0
            ending = f"_{name}" if len(self.engines) > 1 else ""
            found |= {arm + ending: value for arm, value in own.items()}
        return found
