"""Trees that are grown at every step from a drafter's own probabilities."""

import pytest
import torch

import szilard
from szilard.speculative.trained import Trees
from szilard.speculative.tree import TreeShape
from tests.conftest import prompt_batch, tiny_model
from tests.speculative import test_chimera, test_flash, test_hidden_transfer, test_medusa
from tests.speculative.test_lossless import run


def drafts(name, **options):
    if name == "medusa":
        return szilard.Medusa(drafter=test_medusa.random_heads(tiny_model("llama")).double(), **options)
    if name == "chimera":
        return szilard.Chimera(drafter=test_chimera.random_drafter("llama"), **options)
    if name == "flash":
        return szilard.Flash(drafter=test_flash.random_drafter("llama"), **options)
    return szilard.HiddenTransfer(drafter=test_hidden_transfer.random_projections("llama"), **options)


def test_a_sure_row_gets_a_chain_and_an_unsure_one_a_bush():
    logits = torch.full((2, 3, 12), -30.0)
    logits[0, :, 5] = 30.0  # sure at every depth
    logits[1, :, :10] = 0.0  # ten equal tokens at every depth
    chain = TreeShape.of([(0,), (0, 0), (0, 0, 0)])
    tree = Trees(chain, grown=6).of(torch.tensor([1, 2]), logits)
    assert tree.depth[0][tree.valid[0]].max() == 3 and tree.tokens[0, 1:4].tolist() == [5, 5, 5]
    assert int(tree.valid[1].sum()) == 7 and sorted(tree.depth[1].tolist()) == [0, 1, 1, 1, 1, 1, 1]
    alone = Trees(chain, grown=3).of(torch.tensor([1, 2]), logits)
    assert alone.depth[0].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("name", ["medusa", "chimera", "flash", "hidden-transfer"])
def test_the_text_is_that_of_plain_decoding(name, rows):
    model, inputs = tiny_model("llama"), prompt_batch(rows)
    out = run(model, inputs, drafts(name, tree="probable", max_nodes=7))
    assert torch.equal(out.sequences, run(model, inputs).sequences)
    assert out.cost.counters["nodes_verified"] > out.cost.counters["row_steps"]


def test_sampling_draws_the_same_tokens():
    model, inputs = tiny_model("llama"), prompt_batch(1)
    options = {"do_sample": True, "temperature": 1.2}
    out = run(model, inputs, drafts("medusa", tree="probable"), **options)
    assert torch.equal(out.sequences, run(model, inputs, **options).sequences)


def test_what_cannot_be_grown_or_is_out_of_range_is_refused():
    with pytest.raises(ValueError, match="expand='spine'"):
        drafts("chimera", tree="probable", expand="branches")
    with pytest.raises(ValueError, match="epsilon"):
        drafts("medusa", acceptance="typical", epsilon=1.5)


def test_the_typical_rule_takes_its_thresholds():
    model, inputs = tiny_model("llama"), prompt_batch(2)
    strict = run(model, inputs, drafts("medusa", acceptance="typical", epsilon=1.0, delta=1e9))
    loose = run(model, inputs, drafts("medusa", acceptance="typical", epsilon=0.0, delta=0.0))
    assert strict.cost.counters["accepted"] < loose.cost.counters["accepted"]
