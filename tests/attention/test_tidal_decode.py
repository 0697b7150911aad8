"""TidalDecode: what it reads, what it gives, and the correction of the cache."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, DynamicCache, LlamaConfig

import szilard
from szilard.attention import sparse, tidal_decode
from szilard.attention.tidal_calibration import calibrate, needle_prompts, read_plan
from szilard.cli.main import main
from szilard.sessions.call import attention
from tests.conftest import PAD, VOCAB, prompt_batch, tiny_model, tiny_tokenizer

LAYERS = 6
SETTINGS = [
    {"per": "query"},
    {"per": "kv"},
    {"per": "layer"},
    {"per": "query", "keep_current": False},
    {"per": "layer", "sinks": 1, "recent": 2},
    {"per": "kv", "min_length": 14},
]
NAMES = ["-".join(f"{name}={value}" for name, value in setting.items()) for setting in SETTINGS]


@pytest.fixture(scope="module")
def deep():
    """A tiny Llama with six layers."""
    torch.manual_seed(11)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=256,
        initializer_range=0.4,
        pad_token_id=PAD,
    )
    return AutoModelForCausalLM.from_config(config).double().eval()


def tidal(**changes):
    return szilard.TidalDecode(**{"budget": 5, "dense_layers": 1, "reselect_layers": (3,)} | changes)


def words(count, seed=1):
    return torch.randint(3, VOCAB, (1, count), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def logits_of(model, method, ids, *, prompt=11, steps=None, mask=None, cache=None):
    """Logits of the tokens after the prompt, fed in blocks of the given lengths (None: one at a time)."""
    cache = DynamicCache(config=model.config) if cache is None else cache
    steps = [1] * (ids.shape[1] - prompt) if steps is None else steps
    found, at = [], 0
    with method(model) as session:
        for new in [prompt, *steps]:
            seen = None if mask is None else mask[:, : at + new]
            given = {}
            if mask is not None:
                given["position_ids"] = (seen.cumsum(-1) - 1).clamp(min=0)[:, at:]
            part = ids[:, at : at + new]
            found.append(model(part, attention_mask=seen, past_key_values=cache, **given).logits)
            at += new
    return torch.cat(found[1:], 1), session, found[0], cache


def full(model, ids, **options):
    return logits_of(model, szilard.TidalDecode.neutral(), ids, **options)


@pytest.mark.parametrize("per", ["query", "kv", "layer"])
def test_a_budget_that_holds_the_text_is_full_attention(deep, per):
    ids = words(20)
    assert torch.allclose(logits_of(deep, tidal(budget=20, per=per), ids)[0], full(deep, ids)[0], atol=1e-9)
    assert not torch.allclose(logits_of(deep, tidal(per=per), ids)[0], full(deep, ids)[0], atol=1e-3)


def test_dense_layers_to_the_last_are_full_attention(deep):
    ids = words(20)
    method = tidal(dense_layers=LAYERS, reselect_layers=())
    assert torch.allclose(logits_of(deep, method, ids)[0], full(deep, ids)[0], atol=1e-9)


def test_selecting_in_every_layer_is_full_attention(deep):
    ids = words(20)
    method = tidal(dense_layers=0, reselect_layers=tuple(range(1, LAYERS)))
    assert torch.allclose(logits_of(deep, method, ids)[0], full(deep, ids)[0], atol=1e-9)


@pytest.mark.parametrize("budget", [1, 5, 50])
def test_the_prompt_is_read_densely_whatever_the_budget(deep, budget):
    ids = words(20)
    assert torch.allclose(logits_of(deep, tidal(budget=budget), ids)[2], deep(ids[:, :11]).logits, atol=1e-9)


@pytest.mark.parametrize("setting", SETTINGS, ids=NAMES)
def test_a_block_of_tokens_gives_what_they_give_one_at_a_time(deep, setting):
    ids, method = words(20), tidal(**setting)
    single = logits_of(deep, method, ids)[0]
    for steps in ([9], [4, 5], [1, 6, 2]):
        assert torch.allclose(logits_of(deep, method, ids, steps=steps)[0], single, atol=1e-9)


def test_who_sees_whom_is_worked_out_once_for_all_dense_layers(deep, monkeypatch):
    seen, batch = [], prompt_batch(4)
    attend = sparse.attend_to_all
    monkeypatch.setattr(sparse, "attend_to_all", lambda call, visible: seen.append(visible) or attend(call, visible))
    with tidal(budget=4)(deep):
        deep.generate(**batch, max_new_tokens=3, do_sample=False, suppress_tokens=[PAD])
    prompt, steps = seen[:LAYERS], seen[LAYERS:]
    assert all(visible is prompt[0] for visible in prompt) and prompt[0].shape == (4, 1, 11, 11)
    assert [len({id(visible) for visible in steps[at : at + 3]}) for at in (0, 3)] == [1, 1]  # layers 0, 1 and 3
    assert steps[0].shape[-1] == 12 and steps[3].shape[-1] == 13


@pytest.mark.parametrize("setting", SETTINGS, ids=NAMES)
def test_a_long_block_is_worked_off_in_parts(deep, setting, monkeypatch):
    ids, method, copied = words(30), tidal(**setting), []
    whole = logits_of(deep, method, ids, steps=[19])[0]
    rows = sparse._rows
    monkeypatch.setattr(sparse, "_SLOTS_AT_ONCE", 200)
    monkeypatch.setattr(tidal_decode, "_PRODUCTS_AT_ONCE", 500)
    monkeypatch.setattr(sparse, "_rows", lambda stored, one: copied.append(one.slots.shape) or rows(stored, one))
    assert torch.allclose(logits_of(deep, method, ids, steps=[19])[0], whole, atol=1e-9)
    assert max(4 * new * k for _, _, new, k in copied) <= 4 * 200 and any(new > 1 for _, _, new, _ in copied)


@pytest.mark.parametrize("setting", SETTINGS, ids=NAMES)
def test_a_left_padded_row_gives_what_it_gives_alone(deep, setting):
    batch = prompt_batch(4)
    tail = torch.cat([words(9, seed=20 + row) for row in range(4)])
    ids = torch.cat([batch["input_ids"], tail], 1)
    mask = torch.cat([batch["attention_mask"], torch.ones_like(tail)], 1)
    together = logits_of(deep, tidal(**setting), ids, mask=mask)[0]
    for row in range(4):
        length = int(batch["attention_mask"][row].sum())
        alone = logits_of(deep, tidal(**setting), ids[row : row + 1, 11 - length :], prompt=length)[0]
        assert torch.allclose(together[row], alone[0], atol=1e-9)


@pytest.mark.parametrize(("per", "sets"), [("query", 2), ("kv", 1), ("layer", 1)])
def test_keys_read_follow_the_formula(deep, per, sets):
    budget, dense, again, heads = 5, 1, (3,), 2
    _, session, _, _ = logits_of(deep, tidal(per=per), words(20))
    lengths = range(12, 21)
    whole = dense + 1 + len(again)
    assert session.reads.read == heads * sum(whole * n + (LAYERS - whole) * sets * budget for n in lengths)
    assert session.reads.full == heads * LAYERS * sum(lengths)
    assert session.summary()["kv_read_share"] == session.reads.read / session.reads.full


@pytest.mark.parametrize("setting", SETTINGS[:5], ids=NAMES[:5])
def test_a_sparse_layer_attends_to_the_best_products_and_nothing_else(deep, setting, monkeypatch):
    method, seen = tidal(**setting), []
    ids = words(20)
    session_class = type(method.session(deep))
    attend = session_class.attend

    def watched(self, call):
        out = attend(self, call)
        seen.append((call, out))
        return out

    monkeypatch.setattr(session_class, "attend", watched)
    logits_of(deep, method, ids, steps=[9])
    calls = seen[-LAYERS:]
    for index, (call, out) in enumerate(calls):
        source = {2: 1, 4: 3, 5: 3}.get(index)
        allowed = call.visible().expand(1, 4, -1, -1)
        if source is not None:
            allowed = allowed & oracle(calls[source][0], method)
        expected = attention(call.query, call.keys, call.values, allowed, call.scaling)
        assert torch.allclose(out, expected, atol=1e-9)


def oracle(call, method):
    """Which slots every head should read, bool [1, heads, new, slots], found row by row."""
    heads, new, stored = call.query.shape[1], call.new, call.keys.shape[2]
    keys = call.keys.repeat_interleave(call.groups, 1)
    products = call.query @ keys.transpose(-1, -2) * call.scaling
    allowed = torch.zeros(1, heads, new, stored, dtype=torch.bool)
    for row in range(new):
        length = call.before + row + 1
        scores = products[0, :, row, :length]
        if method.per == "kv":
            scores = scores.softmax(-1).view(2, 2, length).mean(1).repeat_interleave(2, 0)
        if method.per == "layer":
            scores = scores.softmax(-1).mean(0).expand(heads, length)
        scores = scores.clone()
        last = max(method.recent, int(method.keep_current))
        scores[:, length - last :] = torch.inf
        scores[:, : method.sinks] = torch.inf
        allowed[0, :, row].scatter_(1, scores.topk(min(method.budget, length)).indices, True)
    return allowed


def test_the_newest_token_is_kept_only_where_it_should_be(deep):
    def newest_is_read(**changes):
        with tidal(budget=1, per="query", **changes)(deep) as session:
            cache = DynamicCache(config=deep.config)
            deep(words(20)[:, :19], past_key_values=cache)
            deep(words(20)[:, 19:], past_key_values=cache)
            return bool((session.selection == 19).all())

    assert newest_is_read() and not newest_is_read(keep_current=False)


def test_a_selection_is_not_carried_to_the_next_step(deep):
    with tidal()(deep) as session:
        cache, selected = DynamicCache(config=deep.config), []
        deep(words(12), past_key_values=cache)
        assert session.selection is None
        for step in range(4):
            deep(words(1, seed=step), past_key_values=cache)
            selected.append(session.selection)
            assert int(session.selection.max()) == 12 + step
    assert len({id(one) for one in selected}) == 4


def test_texts_up_to_the_least_length_are_read_densely(deep):
    ids = words(20)
    found, exact = logits_of(deep, tidal(min_length=15), ids)[0], full(deep, ids)[0]
    assert torch.allclose(found[:, :4], exact[:, :4], atol=1e-9)
    assert not torch.allclose(found[:, 4], exact[:, 4], atol=1e-3)


@pytest.mark.parametrize("per", ["query", "kv", "layer"])
def test_every_node_of_a_tree_has_a_selection_of_its_own(deep, per):
    """Two branches behind a prompt and a root: each node gets what its own path gets when it is fed as a text."""
    prompt, root, left, right = words(12), words(1, 5), words(2, 6), words(1, 7)
    nodes = torch.cat([root, left, right], 1)
    ancestors = torch.tensor([[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 0, 0, 1]]).bool()
    with tidal(per=per)(deep), torch.no_grad():
        cache = DynamicCache(config=deep.config)
        deep(prompt, past_key_values=cache)
        mask = torch.cat([torch.ones(4, 12, dtype=torch.bool), ancestors], 1)[None, None]
        additive = torch.zeros(mask.shape, dtype=torch.double).masked_fill_(~mask, torch.finfo(torch.double).min)
        depth = torch.tensor([[12, 13, 14, 13]])
        tree = deep(nodes, attention_mask=additive, position_ids=depth, past_key_values=cache).logits
    for path in ([0, 1, 2], [0, 3]):
        text = torch.cat([prompt, nodes[:, path]], 1)
        assert torch.allclose(tree[:, path], logits_of(deep, tidal(per=per), text, prompt=12)[0], atol=1e-9)


def test_gpt2_reads_less_and_gemma_leaves_its_sliding_layers_alone():
    gpt2, gemma = tiny_model("gpt2"), tiny_model("gemma3")
    ids = words(20)
    _, session, _, _ = logits_of(gpt2, tidal(dense_layers=0, reselect_layers=()), ids)
    assert session.reads.read < session.reads.full
    with tidal(dense_layers=0, reselect_layers=())(gemma) as session:
        assert session.selects == [1]  # the one layer that keeps every token selects, and is then full attention
    found = logits_of(gemma, tidal(dense_layers=0, reselect_layers=()), ids)[0]
    assert torch.allclose(found, full(gemma, ids)[0], atol=1e-9)


# ---- correction --------------------------------------------------------------------------------------------------


def stored(cache):
    return [(layer.keys, layer.values) for layer in cache.layers]


def agree(one, other, slots=slice(None), rows=slice(None)):
    return all(
        torch.allclose(a[rows, :, slots], b[rows, :, slots], atol=1e-9)
        for pair, twin in zip(one, other, strict=True)
        for a, b in zip(pair, twin, strict=True)
    )


def test_after_a_correction_the_cache_is_that_of_full_attention(deep):
    ids = words(24)
    method = tidal(correct_every=6, per="layer")
    for end, right in ((17, 11), (18, 17), (23, 17), (24, 23)):
        _, session, _, cache = logits_of(deep, method, ids[:, :end])
        exact = stored(full(deep, ids[:, :end])[3])
        assert agree(stored(cache), exact, slice(0, right))
        assert not agree(stored(cache), exact)
        assert session.summary().get("corrections", 0) == (end - 12) // 6
    assert session.reads.counts["corrected_tokens"] == 12 and session.reads.steps == 13


def test_a_correction_changes_what_is_written_after_it_only(deep):
    ids = words(24)
    plain = logits_of(deep, tidal(), ids)[0]
    corrected = logits_of(deep, tidal(correct_every=6), ids)[0]
    assert torch.allclose(plain[:, :6], corrected[:, :6], atol=1e-9)
    assert not torch.allclose(plain[:, 6], corrected[:, 6], atol=1e-6)


def test_a_correction_every_step_leaves_only_the_newest_token_sparse(deep):
    ids = words(20)
    cache = logits_of(deep, tidal(correct_every=1), ids)[3]
    assert agree(stored(cache), stored(full(deep, ids)[3]), slice(0, 19))


def test_left_padded_rows_are_corrected_at_their_own_positions(deep):
    batch = prompt_batch(3)
    tail = torch.cat([words(8, seed=30 + row) for row in range(3)])
    ids = torch.cat([batch["input_ids"], tail], 1)
    mask = torch.cat([batch["attention_mask"], torch.ones_like(tail)], 1)
    cache = logits_of(deep, tidal(correct_every=7), ids, mask=mask)[3]
    for row in range(3):
        first = 11 - int(batch["attention_mask"][row].sum())
        alone = stored(full(deep, ids[row : row + 1, first:], prompt=11 - first)[3])
        mine = [tuple(part[row : row + 1, :, first:] for part in pair) for pair in stored(cache)]
        assert agree(mine, alone, slice(0, 18 - first))


@pytest.mark.parametrize("architecture", ["gpt2", "qwen3"])
def test_generate_corrects_as_it_goes(architecture):
    model, inputs = tiny_model(architecture), prompt_batch(2)
    settings = {"max_new_tokens": 12, "do_sample": False, "suppress_tokens": [PAD], "eos_token_id": None}
    with tidal(dense_layers=0, reselect_layers=(), correct_every=1)(model) as session:
        out = model.generate(**inputs, **settings, return_dict_in_generate=True)
    assert session.summary()["corrections"] == 10
    mask = torch.cat([inputs["attention_mask"], torch.ones(2, 11, dtype=torch.long)], 1)
    exact = full(model, out.sequences[:, :-1], mask=mask)[3]
    for row, first in ((0, 0), (1, 2)):
        assert agree(stored(out.past_key_values), stored(exact), slice(first, 21), slice(row, row + 1))


def test_embeddings_are_corrected_too(deep):
    ids = words(20)
    with tidal(correct_every=4)(deep), torch.no_grad():
        cache = DynamicCache(config=deep.config)
        deep(ids[:, :11], past_key_values=cache)
        for at in range(11, 16):
            given = {"inputs_embeds": deep.get_input_embeddings()(ids[:, at : at + 1])} if at % 2 else {}
            deep(**(given or {"input_ids": ids[:, at : at + 1]}), past_key_values=cache)
    assert agree(stored(cache), stored(full(deep, ids[:, :16])[3]), slice(0, 15))


def test_a_rewind_begins_the_count_anew(deep):
    ids = words(24)
    with tidal(correct_every=4)(deep) as session, torch.no_grad():
        cache = DynamicCache(config=deep.config)
        deep(ids[:, :11], past_key_values=cache)
        for at in range(11, 14):
            deep(ids[:, at : at + 1], past_key_values=cache)
        cache.crop(-2)
        for at in range(12, 16):
            deep(ids[:, at : at + 1], past_key_values=cache)
        assert "corrections" not in session.reads.counts
        deep(ids[:, 16:17], past_key_values=cache)
        assert session.reads.counts["corrected_tokens"] == 4


def test_correction_composes_with_drafting_and_beams(engine):
    prompts = [torch.arange(10, 30), torch.tensor([11, 12, 13, 11, 12, 13, 11])]
    under = tidal(dense_layers=0, reselect_layers=(1,), correct_every=3)
    for method in ("prompt-lookup", "greedy"):
        results = engine.generate(prompts, method, attention=under, max_new_tokens=16, suppress_tokens=[PAD])
        assert all(result.tokens for result in results)
    with under(engine.model):
        engine.model.generate(torch.arange(10, 30)[None], num_beams=3, max_new_tokens=8)


def test_layers_that_forget_cannot_be_corrected():
    with pytest.raises(ValueError, match="leave correct_every out"):
        tidal(dense_layers=0, reselect_layers=(), correct_every=4).session(tiny_model("gemma3"))


# ---- settings and calibration ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"budget": 2, "sinks": 2}, "no room"),
        ({"reselect_layers": (1,)}, "above dense_layers"),
        ({"per": "token"}, "per must be one of"),
        ({"correct_every": 0}, "correct_every"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        tidal(**changes)


def test_a_layer_that_the_model_lacks_is_refused(deep):
    with pytest.raises(ValueError, match=r"lie beyond the 6 layers"):
        tidal(reselect_layers=(13,)).session(deep)


HAY = " ".join(f"w{7 + (17 * index) % 90}" for index in range(400))


def calibrated(model, **changes):
    settings = {"method": tidal(), "prompts": 2, "length": 60} | changes
    return calibrate(model, tiny_tokenizer(), HAY, **settings)


def test_calibration_takes_the_layers_with_the_best_scores(deep):
    plan = calibrated(deep, layers=2)
    first, second = plan["stages"]
    assert set(first["scores"]) == {"2", "3", "4", "5"} and len(second["scores"]) == 3
    for stage in (first, second):
        assert stage["scores"][str(stage["chosen"])] == max(stage["scores"].values())
    assert plan["settings"]["reselect_layers"] == sorted([first["chosen"], second["chosen"]])
    assert plan["score"] == max(second["scores"].values()) and plan["budget"] == 5


def test_a_score_is_that_of_the_answer_fed_token_by_token(deep):
    from szilard.attention.tidal_calibration import answer_score

    prompt = needle_prompts(HAY, tiny_tokenizer(), count=1, length=40)[0]
    assert len(prompt.context) == 40
    ids = torch.tensor([prompt.context + prompt.question + prompt.answer])
    cache = DynamicCache(config=deep.config)
    deep(ids[:, :40], past_key_values=cache)
    score = answer_score(deep, prompt, cache, tidal())
    assert cache.get_seq_length() == 40
    found = logits_of(deep, tidal(), ids, prompt=40)[0][0].log_softmax(-1)
    answer = torch.tensor(prompt.answer)
    expected = found[len(prompt.question) - 1 : -1].gather(1, answer[:, None]).mean()
    assert score == pytest.approx(float(expected), abs=1e-5)


def test_a_killed_calibration_goes_on_where_it_was(deep, tmp_path):
    journal, whole = tmp_path / "a.jsonl", calibrated(deep)
    calls = []

    def stop(done, total):
        calls.append((done, total))
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        calibrated(deep, journal=journal, progress=stop)
    with journal.open("a") as file:
        file.write('{"try": "1//')
    assert calls[-1] == (5, 12)
    assert calibrated(deep, journal=journal) == whole
    assert len(journal.read_text().splitlines()) == 1 + 12 + 1
    with pytest.raises(ValueError, match="another model, text or setting"):
        calibrated(deep, journal=journal, seed=1)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"length": 1000}, "has 400 tokens, fewer"),
        ({"layers": 5}, "4 layers that could select"),
        ({"method": tidal(budget=60)}, "below its length"),
        ({"length": 250}, "do not fit into the model's 256"),
    ],
)
def test_what_cannot_be_calibrated_is_refused(deep, changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        calibrated(deep, **changes)


def test_the_command_writes_a_plan_that_opens(tmp_path, model_folder, capsys):
    data, out = tmp_path / "hay.txt", tmp_path / "plan.json"
    data.write_text(HAY)
    command = ["train", "tidal-decode", "--data", str(data), "-o", str(out), "--model", model_folder]
    command += ["--budget", "6", "--dense-layers", "0", "--prompts", "2", "--length", "60", "--per", "layer"]
    assert main(command) == 0
    assert "layers that select anew" in capsys.readouterr().err
    plan = read_plan(out)
    method = szilard.TidalDecode.from_file(out, budget=8)
    assert method.per == "layer" and method.budget == 8
    assert method.reselect_layers == tuple(plan["settings"]["reselect_layers"])
    out.write_text(json.dumps({"method": "adadec"}))
    with pytest.raises(ValueError, match="is no plan"):
        szilard.TidalDecode.from_file(out)


@pytest.mark.parametrize(
    ("text", "options", "sentence"),
    [
        ("too short", [], "too few for prompts"),
        (HAY, ["--budget", "2000"], "must be below length"),
        (HAY, ["--per", "token"], "per must be one of"),
        (HAY, ["--layers", "0"], "layers must be"),
        (None, [], "there is no file"),
    ],
)
def test_bad_input_is_told_before_the_model_is_loaded(tmp_path, capsys, text, options, sentence):
    data = tmp_path / "hay.txt"
    if text is not None:
        data.write_text(text)
    command = ["train", "tidal-decode", "--data", str(data), "-o", str(tmp_path / "p"), "--model", "nowhere", *options]
    assert main(command) == 2
    assert sentence in capsys.readouterr().err
