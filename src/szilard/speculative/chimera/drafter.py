"""The trained part of Chimera: trigram encoder, full-context encoder, a head per depth."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import DynamicCache

from szilard.options import check_bool, check_choice, check_number
from szilard.speculative.one_layer import encode, one_layer_model
from szilard.speculative.trained import DraftHeads

Unembed = Callable[[torch.Tensor], torch.Tensor]


class ChimeraDrafter(DraftHeads):
    """Trigram encoder g, one decoder layer Phi of the base architecture, and heads H_j; d is the hidden size.

    g depends on three tokens only, so the paper proposes to keep it in a table. Its product is a thirtieth of a small
    model's forward and less of a large one's, so it is computed anew.

        g_t      = W_b (e_t + SiLU(W_a e_t + b_a)),  e_t = [E(x_{t-2}); E(x_{t-1}); E(x_t)]      ("official")
        g_t      = W_2 SiLU(W_1 e_t)                                                              ("paper")
        o_{n+j}  = Phi(h_0 .. h_n, o_{n+1} .. o_{n+j-1}, g_{n+j}) at its last slot
        logits of x_{n+1+j} = H_j [h_n; o_{n+j}]

    Args:
        base: of the model, as `AddOn`.
        layer: configuration of the base model's text part, from which Phi is built.
        depth: heads, K.
        head: "shared": U P_j with the model's output layer U and P_j [d, 2d]; "full": H_j [vocab, 2d] (published).
            Both are U h + U o at the start.
        trigram: "official" (of the code, 12 d^2 weights), "paper" (4 d^2; SiLU inferred), or "off": E(x) alone.
        use_context: whether Phi sees the text's hidden states; False: o comes from g alone (ablation).
        use_hidden: whether heads read h_n beside o (ablation).
    """

    slug: ClassVar[str] = "chimera"

    def __init__(
        self,
        base: dict[str, Any],
        layer: dict[str, Any],
        depth: int = 4,
        head: str = "shared",
        trigram: str = "official",
        use_context: bool = True,
        use_hidden: bool = True,
    ) -> None:
        super().__init__(base, depth)
        check_number("depth", depth, low=1, integer=True)
        check_choice("head", head, ("shared", "full"))
        check_choice("trigram", trigram, ("official", "paper", "off"))
        check_bool("use_context", use_context)
        check_bool("use_hidden", use_hidden)
        self.head, self.trigram_kind = head, trigram
        self.use_context, self.use_hidden = use_context, use_hidden
        d = self.hidden_size
        if trigram == "official":
            self.widen = nn.Linear(3 * d, 3 * d)
            self.narrow = nn.Linear(3 * d, d, bias=False)
            nn.init.zeros_(self.widen.weight)
            nn.init.zeros_(self.widen.bias)
        elif trigram == "paper":
            self.widen = nn.Linear(3 * d, d, bias=False)
            self.narrow = nn.Linear(d, d, bias=False)
        self.layer = one_layer_model(layer)
        self.output = nn.Parameter(torch.zeros(depth, self.vocab_size if head == "full" else d, 2 * d))
        if head == "shared":
            with torch.no_grad():
                self.output.copy_(torch.eye(d).repeat(1, 2).expand_as(self.output))

    @property
    def layer_parameters(self) -> int:
        """Weights that a slot passes."""
        return sum(weight.numel() for weight in self.layer.parameters())

    @property
    def code_parameters(self) -> int:
        """Weights that a drafted-from token passes beside: the trigram encoder and its depth's head."""
        rest = sum(weight.numel() for name, weight in self.named_parameters() if name.startswith(("widen", "narrow")))
        return rest + self.output[0].numel()

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return self.output.dtype

    @torch.no_grad()
    def start_from(self, output: torch.Tensor) -> None:
        """Full heads begin as the model's output layer [vocab, hidden], on both halves."""
        if self.head == "full":
            self.output.copy_(output.repeat(1, 2).expand_as(self.output))

    def trigram(self, embedded: torch.Tensor) -> torch.Tensor:
        """g of embedded token triples: [..., 3, d] -> [..., d]."""
        if self.trigram_kind == "off":
            return embedded[..., -1, :]
        e = embedded.flatten(-2)
        if self.trigram_kind == "official":
            return self.narrow(e + nn.functional.silu(self.widen(e)))
        return self.narrow(nn.functional.silu(self.widen(e)))

    def encode(
        self, slots: torch.Tensor, positions: torch.Tensor, visible: torch.Tensor, cache: DynamicCache
    ) -> torch.Tensor:
        """Run new slots through Phi; their keys and values are appended to the cache.

        Args:
            slots: hidden states, earlier outputs or trigram codes, [batch, new, d].
            positions: of each slot in the text, int64 [batch, new].
            visible: what each new slot sees, bool [batch, new, cached + new].

        Returns:
            [batch, new, d].
        """
        return encode(self.layer, slots, positions, visible, cache)

    def logits(self, depth: int, hidden: torch.Tensor, out: torch.Tensor, unembed: Unembed) -> torch.Tensor:
        """Of head `depth` (from 0): [..., d] and [..., d] -> [..., vocab]."""
        if not self.use_hidden:
            hidden = torch.zeros_like(hidden)
        both = nn.functional.linear(torch.cat([hidden, out], dim=-1), self.output[depth])
        return both if self.head == "full" else unembed(both)


def triples(tokens: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """The last three tokens of every text, int64 [..., 3], as the official code fills in where there are fewer.

    Args:
        tokens: the last three of each, right-aligned, int64 [..., 3]; what stands before a text's start is ignored.
        lengths: tokens of each text, int64 [...].
    """
    last = tokens[..., 2]
    one = torch.stack([last, last, last], dim=-1)
    two = torch.stack([tokens[..., 1], last, last], dim=-1)
    lengths = lengths[..., None]
    return torch.where(lengths >= 3, tokens, torch.where(lengths == 2, two, one))
