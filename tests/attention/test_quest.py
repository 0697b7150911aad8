"""Quest: which pages are read, that padding changes nothing, and that bounds are brought up to date."""

import pytest
import torch
from transformers import DynamicCache

import szilard
from szilard.attention.quest import PageBounds
from szilard.sessions.call import attention
from tests.conftest import VOCAB, prompt_batch, tiny_model


def words(count, seed=1):
    return torch.randint(3, VOCAB, (1, count), generator=torch.Generator().manual_seed(seed))


def quest(**changes):
    return szilard.Quest(**{"budget": 6, "page": 2, "dense_layers": 1} | changes)


@torch.no_grad()
def logits_of(model, method, ids, *, prompt=11, steps=None, mask=None):
    """Logits of the tokens after the prompt, fed in blocks of the given lengths (None: one at a time)."""
    cache, found, at = DynamicCache(config=model.config), [], 0
    with method(model):
        for new in [prompt, *(steps or [1] * (ids.shape[1] - prompt))]:
            seen = None if mask is None else mask[:, : at + new]
            given = {} if mask is None else {"position_ids": (seen.cumsum(-1) - 1).clamp(min=0)[:, at:]}
            part = ids[:, at : at + new]
            found.append(model(part, attention_mask=seen, past_key_values=cache, **given).logits)
            at += new
    return torch.cat(found[1:], 1)


PAGES = [(6, 2), (6, 3), (8, 4), (5, 5), (7, 7)]


@pytest.mark.parametrize(("budget", "page"), PAGES)
def test_a_left_padded_row_gives_what_it_gives_alone(llama, budget, page):
    method, batch = quest(budget=budget, page=page), prompt_batch(5)
    tail = torch.cat([words(9, seed=20 + row) for row in range(5)])
    ids = torch.cat([batch["input_ids"], tail], 1)
    mask = torch.cat([batch["attention_mask"], torch.ones_like(tail)], 1)
    together = logits_of(llama, method, ids, mask=mask)
    for row in range(5):
        length = int(batch["attention_mask"][row].sum())
        alone = logits_of(llama, method, ids[row : row + 1, 11 - length :], prompt=length)
        assert torch.allclose(together[row], alone[0], atol=1e-9), f"row {row}"


@pytest.mark.parametrize(("budget", "page"), PAGES)
def test_a_block_of_tokens_gives_what_they_give_one_at_a_time(llama, budget, page):
    ids, method = words(21), quest(budget=budget, page=page)
    single = logits_of(llama, method, ids)
    assert torch.allclose(logits_of(llama, method, ids, steps=[3, 6, 1]), single, atol=1e-9)
    assert not torch.allclose(logits_of(llama, szilard.Quest.neutral(), ids), single, atol=1e-3)


def test_a_layer_attends_to_the_pages_with_the_greatest_bounds(llama, monkeypatch):
    method, seen = quest(budget=6, page=3), []
    kind = type(method.session(llama))
    attend = kind.attend

    def watched(self, call):
        out = attend(self, call)
        seen.append((call, out))
        return out

    monkeypatch.setattr(kind, "attend", watched)
    logits_of(llama, method, words(20), steps=[1] * 9)
    for call, out in seen[-2:]:
        keys = call.keys.repeat_interleave(call.groups, 1)[0]  # [heads, 20, size]
        allowed = torch.zeros(1, 4, 1, 20, dtype=torch.bool)
        for head in range(4):
            query, worth = call.query[0, head, 0], []
            for start in range(0, 18, 3):
                part = keys[head, start : start + 3]
                worth.append(float(torch.maximum(query * part.amin(0), query * part.amax(0)).sum()))
            best = max(range(6), key=worth.__getitem__)
            allowed[0, head, 0, 3 * best : 3 * best + 3] = True
        allowed[..., 18:] = True  # the newest token's own page
        expected = attention(call.query, call.keys, call.values, allowed, call.scaling)
        assert torch.allclose(out, expected, atol=1e-9)


def exact_bounds(keys, page):
    parts = keys.split(page, 2)
    return [torch.stack([getattr(part, name)(2) for part in parts], 2) for name in ("amin", "amax")]


def test_bounds_follow_steps_blocks_and_rewinds():
    torch.manual_seed(2)
    keys, bounds = torch.randn(2, 3, 400, 4), PageBounds(4)
    before = 0
    for stored in (10, 11, 12, 13, 40, 38, 39, 390, 391):
        if stored < before:  # a rewind; other tokens come
            before = stored - 2
            keys = keys.clone()
            keys[:, :, before:] = torch.randn(2, 3, 400 - before, 4)
        found = bounds.update(keys[:, :, :stored], before, None, None, settled=True)
        for mine, exact in zip(found, exact_bounds(keys[:, :, :stored], 4), strict=True):
            assert torch.equal(mine, exact)
        before = stored


def test_bounds_of_a_draft_tree_are_looked_at_again():
    torch.manual_seed(2)
    keys, bounds = torch.randn(1, 2, 40, 4), PageBounds(4)
    bounds.update(keys[:, :, :10], 0, None, None, settled=True)
    bounds.update(keys[:, :, :16], 10, None, None, settled=False)
    keys[:, :, 10:13] = keys[:, :, [11, 13, 15]]  # the accepted nodes move together
    found = bounds.update(keys[:, :, :14], 13, None, None, settled=True)
    for mine, exact in zip(found, exact_bounds(keys[:, :, :14], 4), strict=True):
        assert torch.equal(mine, exact)


def test_a_step_looks_at_the_last_page_only():
    keys, bounds = torch.randn(1, 2, 33, 4), PageBounds(4)
    bounds.update(keys[:, :, :32], 0, None, None, settled=True)
    keys[:, :, :32] = torch.nan  # would be seen
    assert not any(bound.isnan().any() for bound in bounds.update(keys, 32, None, None, settled=True))


@pytest.mark.parametrize("architecture", ["gpt2", "gemma3"])
def test_models_without_rotation_and_with_sliding_layers_work(architecture):
    model, inputs = tiny_model(architecture), prompt_batch(3)
    with quest(dense_layers=0)(model) as session:
        model.generate(**inputs, max_new_tokens=8, do_sample=False)
    assert session.reads.read < session.reads.full


def test_a_budget_that_is_no_whole_number_of_pages_is_refused():
    with pytest.raises(ValueError, match="multiple of page=16"):
        szilard.Quest(budget=100)
