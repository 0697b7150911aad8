"""A model that is right about everything: the true conditional distribution of a task, by enumeration.

What a decoder gets wrong with it is the decoder's own: no training, no bias. It reads compact samples with single-word
items, and its words are its vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from szilard.decoding.cost import ModelSize
from szilard.diffusion.canvas_model import CanvasModel, MaskedDiffusionConfig
from szilard.evaluation.parallelbench.exact_answers import exact_task
from szilard.evaluation.parallelbench.lists import ARROW
from szilard.evaluation.parallelbench.names import check_pool
from szilard.options import check_number

PAD, MASK, END = "<pad>", "<mask>", "<end>"
_CELLS = 4_000_000  # rows x answers in one product


class ExactTaskModel(CanvasModel):
    """The true distribution of each open place, given the filled ones.

    A canvas that no right answer fits (a wrong earlier commit) gets the distribution over the answers that agree with
    it in the most places, so that decoding always goes on; it is lost all the same. What follows the answer is the end
    token for sure.

    Args:
        task: a list or puzzle task, or one of three distributions whose prompt is but a name: "names_shuffle" (n = 5
            names of three tokens, in any order), "key_bits" (one of 2^n keys and its n = 3 bits), "two_key_bits" (two
            of these, independent).
        n: items, the side of a Latin square, names, or bits; None: 6, 4, 5 and 3.
        words: items of lists, single words; None: first names.
        must_differ: "shuffle" only: the given order has probability 0, as in the benchmark; else all n! orders are
            equally likely, as in its closed forms.
        tie_noise: standard deviation of noise that is added to the logits, so that greedy decoding breaks ties at
            random; 0: none.
        seed: of the noise.

    Raises:
        ValueError: no such task, or a size whose answers cannot be enumerated.
    """

    def __init__(
        self,
        task: str,
        n: int | None = None,
        *,
        words: Sequence[str] | None = None,
        must_differ: bool = False,
        tie_noise: float = 0.0,
        seed: int = 0,
    ) -> None:
        check_number("tie_noise", tie_noise, low=0, high=1)
        self.task = exact_task(task, n, None if words is None else check_pool(words, 1), must_differ)
        self.vocabulary = (PAD, MASK, END, *self.task.vocabulary)
        self.ids = {word: token for token, word in enumerate(self.vocabulary)}
        self.config = MaskedDiffusionConfig(mask_token_id=self.ids[MASK], eos_token_id=self.ids[END])
        self.vocab_size = len(self.vocabulary)
        self.size = ModelSize(
            f"exact-{self.task.name}", layers=1, layer_parameters=0, attention_width=0, kv_bytes_per_token=0
        )
        self.answer_length = len(self.task.patterns[0])
        self._tie_noise, self._generator = tie_noise, torch.Generator().manual_seed(seed)
        self._patterns = torch.tensor(self.task.patterns)  # [answers, places]
        count = len(self.task.places) or len(self.task.sources)
        self._one_hot = torch.nn.functional.one_hot(self._patterns, count).flatten(1).float()  # [answers, places x S]
        self._number = torch.tensor([int(word) if word.isdecimal() else -1 for word in self.vocabulary])
        rank = {word: place for place, word in enumerate(sorted(self.vocabulary))}
        self._rank = torch.tensor([rank[word] for word in self.vocabulary])  # in alphabetical order

    @property
    def num_answers(self) -> int:
        """Answers that are right for some prompt; of shuffles and keys, for every prompt (log2 of it: their bits)."""
        return len(self.task.patterns)

    # ---- words and canvases -----------------------------------------------------------------------------------

    def encode(self, text: str) -> Tensor:
        """Token ids [words] of a text.

        Raises:
            ValueError: a word that is not in the vocabulary.
        """
        words = text.split()
        if unknown := [word for word in words if word not in self.ids]:
            raise ValueError(f"{unknown[0]!r} is no word of the exact model of '{self.task.name}'.")
        return torch.tensor([self.ids[word] for word in words], dtype=torch.int64)

    def decode(self, tokens: Tensor) -> str:
        """The words of token ids, without padding, masks and ends."""
        special = (PAD, MASK, END)
        return " ".join(word for word in (self.vocabulary[token] for token in tokens.tolist()) if word not in special)

    def canvas(self, prompts: Sequence[str], length: int | None = None) -> tuple[Tensor, Tensor]:
        """Canvases with open answers: tokens int64 and real bool, both [rows, prompt_length + length].

        Args:
            prompts: compact prompts.
            length: columns of the answer; None: as many as it has.
        """
        open_ = self.answer_length if length is None else length
        encoded = torch.stack([self.encode(prompt) for prompt in prompts])
        tokens = torch.cat([encoded, encoded.new_full((len(prompts), open_), self.config.mask_token_id)], 1)
        return tokens, torch.ones_like(tokens, dtype=torch.bool)

    # ---- distributions ----------------------------------------------------------------------------------------

    @torch.no_grad()
    def predict(self, tokens: Tensor, real: Tensor, wanted: Tensor) -> Tensor:
        """Log-probabilities [rows, n, vocab], float32, of the token at each wanted column; -inf: impossible.

        Columns of the prompt are what they are.

        Raises:
            ValueError: a prompt of another task or size, or fewer columns after it than the answer takes.
        """
        answer, sources, allowed, start = self._read(tokens, real)
        part = max(1, _CELLS // self.num_answers)
        probabilities = torch.cat(
            [
                self._marginals(*rows)
                for rows in zip(answer.split(part), sources.split(part), allowed.split(part), strict=True)
            ]
        )  # [rows, places, S]
        place = wanted - start[:, None]
        inside = (place >= 0) & (place < self.answer_length)
        index = place.clamp(0, self.answer_length - 1)[..., None].expand(-1, -1, sources.shape[1])
        known = torch.where(place < 0, tokens.gather(1, wanted), self.ids[END])  # around the answer
        table = torch.zeros(*wanted.shape, self.vocab_size, dtype=torch.float64, device=tokens.device)
        table.scatter_add_(2, sources[:, None].expand_as(index), probabilities.gather(1, index) * inside[..., None])
        table.scatter_add_(2, known[..., None], (~inside).double()[..., None])
        logits = table.log()
        if self._tie_noise:
            noise = torch.randn(logits.shape, generator=self._generator, dtype=torch.float64)
            logits = logits + self._tie_noise * noise.to(logits.device)
        return logits.float()

    def is_right(self, tokens: Tensor, real: Tensor) -> Tensor:
        """Whether the answers of canvases are right: bool [rows]."""
        answer, sources, allowed, _ = self._read(tokens, real)
        matches = self._matches(answer, sources).masked_fill(~allowed, -1)
        return matches.amax(1) == self.answer_length

    def _marginals(self, answer: Tensor, sources: Tensor, allowed: Tensor) -> Tensor:
        """Probabilities [rows, places, S] of each source at each place."""
        matches = self._matches(answer, sources).masked_fill(~allowed, -1)
        likely = (matches == matches.amax(1, keepdim=True)).float()  # fits everywhere, or in the most places
        counts = (likely @ self._one_hot.to(answer.device)).unflatten(1, (self.answer_length, -1))
        return counts.double() / likely.double().sum(1)[:, None, None]

    def _matches(self, answer: Tensor, sources: Tensor) -> Tensor:
        """In how many places each right answer agrees with what is filled: [rows, answers]."""
        found = answer[:, :, None] == sources[:, None, :]  # [rows, places, S]; a mask or a foreign token: nowhere
        return found.float().flatten(1) @ self._one_hot.to(answer.device).T

    def _read(self, tokens: Tensor, real: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Answer columns [rows, places], sources [rows, S], answers the prompt allows [rows, answers], start [rows]."""
        task, rows = self.task, torch.arange(len(tokens), device=tokens.device)
        first = real.int().argmax(1)  # prompts are padded on the left
        start = first + task.prompt_length
        if int(start.max()) + self.answer_length > tokens.shape[1]:
            raise ValueError(
                f"the answer of '{task.name}' takes {self.answer_length} columns after a prompt of "
                f"{task.prompt_length}, and the canvas has {tokens.shape[1]}."
            )
        prompt = tokens[rows[:, None], first[:, None] + torch.arange(task.prompt_length, device=tokens.device)]
        if not bool(((prompt[:, 0] == self.ids[task.name]) & (prompt[:, -1] == self.ids[ARROW])).all()):
            raise ValueError(
                f"this exact model answers compact prompts of '{task.name}' with {task.prompt_length} words; another "
                "task or length was asked."
            )
        answer = tokens[rows[:, None], start[:, None] + torch.arange(self.answer_length, device=tokens.device)]
        if task.places:
            sources = prompt[:, list(task.places)]
        else:
            constant = torch.tensor([self.ids[word] for word in task.sources], device=tokens.device)
            sources = constant.expand(len(tokens), -1)
        allowed = self._allowed(prompt, sources)
        return answer, sources, allowed | ~allowed.any(1, keepdim=True), start

    def _allowed(self, prompt: Tensor, sources: Tensor) -> Tensor:
        """Which answers the prompt leaves: the one at its index, the sorted one, those with the given cells."""
        task, device = self.task, prompt.device
        if task.name.endswith("_index"):
            return self._number.to(device)[prompt[:, 1]][:, None] == torch.arange(self.num_answers, device=device)
        if task.name == "sort":
            order = self._rank.to(device)[sources[:, :-1]].argsort(1)  # the last source is an empty slot
            return (self._patterns.to(device) == order[:, None]).all(-1)
        if task.name == "sudoku":
            cells = prompt[:, 3:-1]
            return self._matches(cells, sources) == (cells != self.ids["0"]).sum(1, keepdim=True)
        return torch.ones(len(prompt), self.num_answers, dtype=torch.bool, device=device)
