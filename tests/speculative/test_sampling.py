"""Sampled text with drafts has the law of sampled text without, whatever the drafts are and however they were drawn."""

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from szilard.decoding.method import Method
from szilard.speculative.drafter import Drafter, speculative_decode
from szilard.speculative.tree import DraftTree, Proposal
from szilard.speculative.verify import Typical, verify_tree

VOCAB, DRAWS, ROWS = 6, 24_000, 4_000


@pytest.fixture(scope="module")
def toy():
    """A random model over six tokens, so that three of them have 216 outcomes."""
    torch.manual_seed(2)
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        initializer_range=0.6, pad_token_id=0, eos_token_id=None, bos_token_id=None,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def exact(model, prompt, temperature, top_p):
    """The law of the next three tokens, [6, 6, 6]."""
    law = torch.zeros(VOCAB, VOCAB, VOCAB)
    ids = torch.cartesian_prod(*[torch.arange(VOCAB)] * 3)
    with torch.no_grad():
        logits = (
            model(torch.cat([prompt.expand(len(ids), -1), ids], 1)).logits[:, prompt.shape[1] - 1 : -1] / temperature
        )
    p = torch.softmax(logits, -1)
    ranked, order = p.sort(-1, descending=True)
    kept = torch.zeros_like(p).scatter(-1, order, torch.where(ranked.cumsum(-1) - ranked < top_p, ranked, 0.0))
    p = kept / kept.sum(-1, keepdim=True)
    law[ids[:, 0], ids[:, 1], ids[:, 2]] = p.gather(-1, ids[..., None])[..., 0].prod(-1)
    return law


@dataclass(frozen=True)
class Drafts(Method):
    """`kind`: "tree": a fixed tree of arbitrary tokens; "bad", "perfect": two levels of draws, from noise or from p."""

    slug: ClassVar[str] = "drafts"
    family: ClassVar[str] = "speculative"
    paper: ClassVar[str] = "none"

    kind: str = "tree"
    model: Any = None
    temperature: float = 1.0
    top_p: float = 1.0
    replacement: bool = False
    width: int = 2

    @classmethod
    def neutral(cls):
        return cls()

    def decode(self, state):
        speculative_decode(state, _Drafts(self))


class _Drafts(Drafter):
    def __init__(self, method):
        self.method = method
        self.noise = torch.softmax(2 * torch.randn(2 * VOCAB, VOCAB, generator=torch.Generator().manual_seed(5)), -1)

    def propose(self, state):
        pending, batch = state.tokens[:, -1], state.batch_size
        if self.method.kind == "tree":
            return DraftTree.from_paths(pending, [[[1, 2], [3, 0], [1, 4], [5]]] * batch)
        width = self.method.width
        q0 = self.q(state.tokens)
        first = torch.multinomial(q0, width, replacement=self.method.replacement)
        q1 = self.q(torch.cat([state.tokens, first[:, :1]], 1))  # the first child has children, too
        second = torch.multinomial(q1, width, replacement=self.method.replacement)
        tokens = torch.cat([pending[:, None], first, second], 1)
        parent = torch.tensor([-1] + [0] * width + [1] * width).expand(batch, -1)
        slot = torch.tensor([0, 1] + [-1] * (2 * width - 1)).expand(batch, -1)
        valid = torch.ones_like(tokens, dtype=torch.bool)
        return DraftTree(tokens, parent, valid, Proposal(torch.stack([q0, q1], 1), slot, self.method.replacement))

    def q(self, tokens):
        if self.method.kind == "bad":
            return self.noise[tokens[:, -1]]
        with torch.no_grad():
            return torch.softmax(self.method.model(tokens).logits[:, -1] / self.method.temperature, -1)


def draws(model, prompt, method, **options):
    torch.manual_seed(0)
    found = []
    for _ in range(DRAWS // ROWS):
        out = model.generate(
            prompt.expand(ROWS, -1),
            custom_generate=method,
            do_sample=True,
            top_k=0,
            max_new_tokens=4,
            pad_token_id=0,
            **options,
        )
        found.append(out[:, prompt.shape[1] : prompt.shape[1] + 3])
    return torch.cat(found)


def chi_square(found, law):
    """z-score of the chi-square statistic over the outcomes that are expected at least five times."""
    expected = law.flatten() * len(found)
    index = (found * torch.tensor([VOCAB**2, VOCAB, 1])).sum(1)
    counts = torch.bincount(index, minlength=VOCAB**3).double()
    often = expected >= 5
    rest = torch.stack([counts[~often].sum(), expected[~often].sum()])
    statistic = ((counts[often] - expected[often]) ** 2 / expected[often]).sum() + (rest[0] - rest[1]) ** 2 / rest[
        1
    ].clamp(min=1)
    degrees = int(often.sum())
    return float((statistic - degrees) / (2 * degrees) ** 0.5)


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 0.8)])
@pytest.mark.parametrize(
    "options",
    [{"kind": "tree"}, {"kind": "bad"}, {"kind": "bad", "replacement": True, "width": 3}, {"kind": "perfect"}],
    ids=["tree", "bad", "bad with replacement", "perfect"],
)
def test_the_first_three_tokens_have_the_law_of_plain_sampling(toy, options, temperature, top_p):
    prompt = torch.tensor([[1, 4, 2]])
    law = exact(toy, prompt, temperature, top_p)
    assert abs(float(law.sum()) - 1) < 1e-5
    method = Drafts(model=toy, temperature=temperature, **options)
    found = draws(toy, prompt, method, temperature=temperature, top_p=top_p)
    assert abs(chi_square(found, law)) < 4
    shifted = law.roll(1, 0)  # the test can tell laws apart
    assert chi_square(found, shifted) > 50


class _Fixed:
    """Just enough of a decoding state: fixed probabilities, one token behind."""

    scores = raw_logits = None

    def __init__(self, p, rows, *, sample=True):
        self.p, self.batch_size, self.do_sample = p, rows, sample
        self.finished = torch.zeros(rows, dtype=torch.bool)
        self.tokens = torch.zeros(rows, 1, dtype=torch.long)
        self.generator, self.logits_processor = None, []

    def probabilities(self, logits, text=None):
        return torch.softmax(logits, -1)

    def choose(self, logits, text=None):
        if not self.do_sample:
            return logits.argmax(-1)
        return torch.multinomial(torch.softmax(logits, -1), 1)[:, 0]

    def pad(self, tokens):
        return tokens


def one_level(p, q, children, rows, *, replacement):
    torch.manual_seed(1)
    state = _Fixed(p, rows)
    drawn = (
        torch.multinomial(q, children * rows, replacement=True).view(rows, children)
        if replacement
        else torch.stack([torch.multinomial(q, children) for _ in range(rows)])
    )
    tokens = torch.cat([state.tokens, drawn], 1)
    parent = torch.tensor([-1] + [0] * children).expand(rows, -1)
    slot = torch.tensor([0] + [-1] * children).expand(rows, -1)
    proposal = Proposal(q.expand(rows, 1, -1), slot, replacement)
    tree = DraftTree(tokens, parent, torch.ones_like(tokens, dtype=torch.bool), proposal)
    return verify_tree(state, tree, p.log().expand(rows, children + 1, -1))


@pytest.mark.parametrize(
    ("replacement", "children", "accepted"),
    [(False, 1, 0.7), (False, 2, 0.8085714), (False, 3, 1.0), (True, 1, 0.7), (True, 2, 0.76), (True, 3, 0.808)],
)
def test_multi_round_rejection_on_the_worked_example(replacement, children, accepted):
    p, q, rows = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.2, 0.5, 0.3]), 20_000
    verdict = one_level(p, q, children, rows, replacement=replacement)
    assert abs(float((verdict.counts > 1).double().mean()) - accepted) < 0.012
    law = torch.bincount(verdict.tokens[:, 0], minlength=3) / rows
    torch.testing.assert_close(law, p, atol=0.012, rtol=0)


def test_chosen_children_on_the_worked_example():
    p, rows = torch.tensor([0.5, 0.3, 0.2]), 20_000
    torch.manual_seed(1)
    tree = DraftTree.from_paths(torch.zeros(rows, dtype=torch.long), [[[0], [1]]] * rows)
    verdict = verify_tree(_Fixed(p, rows), tree, p.log().expand(rows, 3, -1))
    assert abs(float((verdict.counts > 1).double().mean()) - 0.8) < 0.012
    law = torch.bincount(verdict.tokens[:, 0], minlength=3) / rows
    torch.testing.assert_close(law, p, atol=0.012, rtol=0)  # drawing along each path would give (.675, .255, .07)


def test_the_greedy_walk_on_the_worked_example():
    tree = DraftTree.from_parents(torch.tensor([[7, 3, 5, 3, 9, 4]]), torch.tensor([[-1, 0, 0, 1, 1, 2]]))
    logits = torch.nn.functional.one_hot(torch.tensor([[5, 9, 4, 1, 2, 0]]), 10).float()
    verdict = verify_tree(_Fixed(None, 1, sample=False), tree, logits)
    assert verdict.path.tolist() == [[0, 2, 5]] and verdict.counts.tolist() == [3]
    assert verdict.tokens.tolist() == [[5, 4, 0]]


def test_typical_acceptance_takes_the_longest_plausible_path():
    tree = DraftTree.from_parents(torch.tensor([[7, 1, 2, 3, 4]]), torch.tensor([[-1, 0, 0, 2, 3]]))
    p = torch.full((1, 5, 8), 0.02)
    p[0, 0, 1], p[0, 0, 2] = 0.5, 0.38  # both plausible under the root
    p[0, 1, 0] = 0.86
    p[0, 2, 3], p[0, 2, 5] = 0.3, 0.58
    p[0, 3, 6] = 0.86  # node 4 is not plausible here
    p[0, 4, 0] = 0.86
    verdict = verify_tree(_Fixed(None, 1, sample=False), tree, p.log(), Typical())
    assert verdict.path.tolist() == [[0, 2, 3]] and verdict.tokens.tolist() == [[2, 3, 6]]
