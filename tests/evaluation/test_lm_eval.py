"""szilard as a model of lm-evaluation-harness: against direct forwards, the harness's own `hf` model, and in tasks."""

import json
import logging
import math
import os
import subprocess
import sys
import textwrap
from importlib.metadata import entry_points
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("lm_eval")

import lm_eval
from lm_eval.api import registry

import szilard
from szilard.decoding.grounding import GroundingSpace
from szilard.engines import TransformersEngine
from szilard.evaluation.lm_eval import SzilardLM
from tests.conftest import tiny_model, tiny_tokenizer

STOP_FREE = {"until": [], "do_sample": False, "max_gen_toks": 12}


def letter_tokenizer(bos=False):
    """97 tokens: three special ones, and newline, space and the ASCII characters up to `|`, one token each."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "<eos>", "<bos>", "Ċ", "Ġ", *map(chr, range(33, 125))]
    backend = Tokenizer(models.BPE({word: index for index, word in enumerate(words)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    if bos:
        backend.post_processor = processors.TemplateProcessing("<bos> $A", None, [("<bos>", 2)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>", padding_side="left"
    )
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}{% if add_generation_prompt %}[assistant] {% endif %}"
    )
    return tokenizer


def letter_engine(bos=False):
    return TransformersEngine(tiny_model("llama"), letter_tokenizer(bos), name="letters")


def requests(*arguments):
    return [SimpleNamespace(args=args) for args in arguments]


def direct(tokenizer, context, continuation):
    """ln p of a continuation by one plain forward, and whether it is greedy."""
    model = tiny_model("llama")
    ids = context + continuation
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0, len(context) - 1 : -1]
    target = torch.tensor(continuation)
    chosen = torch.log_softmax(logits.float(), -1).gather(1, target[:, None]).sum().item()
    return chosen, bool((logits.argmax(-1) == target).all())


@pytest.fixture
def lm():
    return SzilardLM(letter_engine())


PAIRS = [
    ("Is it red?", " yes"),
    ("Is it red?", " no"),
    ("Is it red?", " certainly not"),
    ("", "alone"),
    ("two words ", "after a space"),
    ("What?", "!"),
]


# ---- likelihoods -------------------------------------------------------------------------------------------------


def test_likelihoods_are_those_of_a_plain_forward(lm):
    encode = letter_tokenizer().encode
    for (context, continuation), (total, is_greedy) in zip(PAIRS, lm.loglikelihood(requests(*PAIRS)), strict=True):
        ids = encode(context.rstrip()) or [2]
        rest = context[len(context.rstrip()) :] + continuation
        expected, greedy = direct(lm.tokenizer, ids, encode(rest))
        assert total == pytest.approx(expected, abs=1e-4) and is_greedy == greedy


def test_the_greedy_continuation_is_said_to_be_greedy(lm):
    text = lm.generate_until(requests(("Is it red?", {**STOP_FREE, "max_gen_toks": 3})))[0]
    (_, is_greedy), (_, is_not) = lm.loglikelihood(requests(("Is it red?", text), ("Is it red?", text[:-1] + "||")))
    assert len(text) == 3 and is_greedy and not is_not


@pytest.mark.parametrize("bos", [False, True])
def test_likelihoods_and_texts_are_those_of_the_harness_own_model(bos):
    huggingface = pytest.importorskip("lm_eval.models.huggingface")
    try:
        theirs = huggingface.HFLM(pretrained=tiny_model("llama"), tokenizer=letter_tokenizer(bos), batch_size=2)
    except ImportError as error:
        pytest.skip(f"the harness's own model lacks a package: {error}")
    ours = SzilardLM(letter_engine(bos), batch_size=2)
    pairs = [*PAIRS, ("<bos>begins", " with BOS")]
    for own, other in zip(ours.loglikelihood(requests(*pairs)), theirs.loglikelihood(requests(*pairs)), strict=True):
        assert own[0] == pytest.approx(other[0], abs=1e-4) and own[1] == other[1]
    texts = requests(("One text.",), ("A longer text of two lines\nwith words.",))
    assert ours.loglikelihood_rolling(texts) == pytest.approx(theirs.loglikelihood_rolling(texts), abs=1e-3)
    prompts = requests(*((context or "x", {**STOP_FREE, "until": ["e", "\n"]}) for context, _ in PAIRS))
    assert ours.generate_until(prompts) == theirs.generate_until(prompts)


def test_one_context_is_read_once(lm, monkeypatch):
    import szilard.evaluation.lm_eval as module

    calls = []
    original = module.log_likelihoods
    monkeypatch.setattr(module, "log_likelihoods", lambda *a, **k: calls.append(len(a[2])) or original(*a, **k))
    lm.loglikelihood(requests(*PAIRS))
    assert sorted(calls) == [1, 1, 1, 3]


def test_rolling_windows_count_every_token_once():
    text = "A text that is longer than the window of this model."
    lm = SzilardLM(letter_engine(), max_length=16)
    ids = letter_tokenizer().encode(text)
    expected = direct(lm.tokenizer, [2], ids[:16])[0]
    for start in range(16, len(ids), 16):
        end = min(start + 16, len(ids))
        expected += direct(lm.tokenizer, ids[end - 17 : start], ids[start:end])[0]
    assert lm.loglikelihood_rolling(requests((text,))) == [pytest.approx(expected, abs=1e-3)]


def test_long_contexts_lose_their_beginning_with_a_warning(caplog):
    lm = SzilardLM(letter_engine(), max_length=20)
    with caplog.at_level(logging.WARNING):
        long, short = lm.loglikelihood(requests(("x" * 50 + "abc", "def"), ("x" * 15 + "abc", "def")))
    assert long == short and "1 of 2 contexts are too long for max_length=20" in caplog.text
    prompts = [("x" * 50 + "abc", STOP_FREE), ("x" * 5 + "abc", STOP_FREE)]
    long, short = lm.generate_until(requests(*prompts))
    assert long == short


def test_the_whole_window_of_a_model_can_be_asked_for():
    lm = SzilardLM(letter_engine())
    assert lm.max_length == 256
    assert math.isfinite(lm.loglikelihood_rolling(requests(("y" * 600,)))[0])
    assert math.isfinite(lm.loglikelihood(requests(("y" * 600, "yes")))[0][0])


def test_the_cache_of_the_harness_is_filled(lm):
    seen = []
    lm.set_cache_hook(SimpleNamespace(add_partial=lambda *entry: seen.append(entry)))
    answers = lm.loglikelihood(requests(*PAIRS[:2]))
    total = lm.loglikelihood_rolling(requests(("abc",)))[0]
    text = lm.generate_until(requests(("abc", STOP_FREE)))[0]
    assert seen == [
        ("loglikelihood", PAIRS[0], answers[0]),
        ("loglikelihood", PAIRS[1], answers[1]),
        ("loglikelihood_rolling", ("abc",), total),
        ("generate_until", ("abc", STOP_FREE), text),
    ]


def test_a_method_without_a_say_in_likelihoods_says_so_once(caplog):
    lm = SzilardLM(letter_engine(), method="lead")
    with caplog.at_level(logging.WARNING):
        first = lm.loglikelihood(requests(*PAIRS))
        assert first == lm.loglikelihood(requests(*PAIRS)) == SzilardLM(letter_engine()).loglikelihood(requests(*PAIRS))
    assert caplog.text.count("likelihoods are those of the model itself: the method 'lead'") == 1


def test_a_method_that_shapes_given_text_changes_likelihoods(caplog):
    from tests.decoding.test_caad import bag_of_words

    engine = TransformersEngine(tiny_model("llama"), tiny_tokenizer(), name="tiny")
    space = GroundingSpace.build(
        engine, examples=[("w20 w21", ["w30 w31"])], encoder=bag_of_words, context=8, dtype=torch.float64
    )
    asked = requests(("w20 w21", " w30 w31"))
    with caplog.at_level(logging.WARNING):
        shaped = SzilardLM(engine, method=szilard.Caad(space, weight=2.0, similarity_threshold=0.1)).loglikelihood(
            asked
        )
    assert shaped != SzilardLM(engine).loglikelihood(asked) and not caplog.text


# ---- text --------------------------------------------------------------------------------------------------------

PROMPTS = ["Is it red?", "a", "A much longer prompt, with words.", "Why?", "Is it blue?"]


@pytest.mark.parametrize("batch_size", [1, 2, "auto"])
def test_texts_are_the_engines_in_the_order_of_the_requests(batch_size):
    lm = SzilardLM(letter_engine(), batch_size=batch_size)
    expected = [letter_engine().generate(prompt, raw=True, max_new_tokens=12).text for prompt in PROMPTS]
    assert lm.generate_until(requests(*((prompt, STOP_FREE) for prompt in PROMPTS))) == expected
    assert len(set(expected)) > 2


def test_texts_end_before_the_first_stop(lm):
    whole = lm.generate_until(requests((PROMPTS[0], STOP_FREE)))[0]
    stops = [whole[9], whole[4:6]]
    stopped = lm.generate_until(requests((PROMPTS[0], {**STOP_FREE, "until": stops})))[0]
    assert stopped == whole[: min(whole.find(stop) for stop in stops)] and len(stopped) < len(whole)
    assert lm.generate_until(requests((PROMPTS[0], {**STOP_FREE, "until": stops[0]})))[0] == whole.split(stops[0])[0]


def test_a_stop_that_begins_in_the_prompt_is_none(lm):
    whole = lm.generate_until(requests((PROMPTS[0], STOP_FREE)))[0]
    across = PROMPTS[0][-1] + whole[0]
    assert lm.generate_until(requests((PROMPTS[0], {**STOP_FREE, "until": [across]})))[0] == whole.split(across)[0]
    assert len(whole.split(across)[0]) > 1


@pytest.mark.parametrize("name", ["max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens"])
def test_the_limit_has_four_names_and_a_default(name):
    lm = SzilardLM(letter_engine(), max_gen_toks=7)
    short, default = lm.generate_until(requests(("abc", {"until": [], name: 3}), ("abc", {"until": []})))
    assert len(short) == 3 and len(default) == 7 and default.startswith(short)


def test_requests_with_other_settings_run_apart(lm):
    one, three, two = lm.generate_until(
        requests(*(("abc", {"until": [], "max_gen_toks": length}) for length in (1, 3, 2)))
    )
    assert (len(one), len(two), len(three)) == (1, 2, 3) and three.startswith(two)


def test_an_empty_context_begins_with_bos(lm):
    expected = letter_engine().generate(torch.tensor([2]), max_new_tokens=12).text
    assert lm.generate_until(requests(("", STOP_FREE))) == [expected]


def test_options_reach_the_method():
    spelled = SzilardLM.create_from_arg_string("", {"pretrained": letter_engine(), "method": "lead"})
    assert spelled.method == szilard.Lead()
    spelled = SzilardLM.create_from_arg_string(
        "method=lead,method.window=inf,method.threshold=dynamic,method.anchor_decay=true,device=cpu",
        {"pretrained": letter_engine(), "batch_size": 4, "max_batch_size": None, "device": "cuda:0"},
    )
    assert spelled.method == szilard.Lead(window=math.inf, threshold="dynamic", anchor_decay=True)
    assert spelled.batch_size == 4
    lm = SzilardLM(letter_engine(), method="lead", **{"method.window": 3, "method.max_switches": None})
    assert lm.method == szilard.Lead(window=3, max_switches=None)
    expected = letter_engine().generate("Why?", szilard.Lead(window=3, max_switches=None), raw=True, max_new_tokens=12)
    assert lm.generate_until(requests(("Why?", STOP_FREE))) == [expected.text]
    assert "window=3" in lm.get_model_info()["szilard_method"]
    assert SzilardLM(letter_engine(), method=szilard.Lead(window=3)).method == szilard.Lead(window=3)


def test_tasks_that_sample_do(caplog):
    settings = {"until": [], "max_gen_toks": 12, "do_sample": True, "temperature": 1.5, "top_p": 0.9}

    def texts(**arguments):
        torch.manual_seed(5)
        return SzilardLM(letter_engine(), **arguments).generate_until(requests(("Why?", settings)))[0]

    torch.manual_seed(5)
    drawn = letter_engine().generate(
        "Why?", "sampling", raw=True, max_new_tokens=12, temperature=1.5, top_p=0.9, do_sample=True
    )
    greedy = letter_engine().generate("Why?", raw=True, max_new_tokens=12).text
    with caplog.at_level(logging.WARNING):
        assert texts() == texts(method="sampling") == drawn.text != greedy and not caplog.text
        assert texts(method="greedy") == greedy and "sampling settings do not act" in caplog.text
        caplog.clear()
        cool = texts(method="sampling", **{"method.temperature": 0.01})
        assert cool == greedy and "sampling settings do not act" in caplog.text
    settings["do_sample"] = False
    assert texts() == greedy
    settings |= {"do_sample": True, "temperature": 0.0}
    assert texts() == greedy


def test_a_task_with_beams_gets_beam_search(caplog):
    asked = requests(("Why?", {**STOP_FREE, "num_beams": 3}))
    expected = letter_engine().generate("Why?", szilard.BeamSearch(beams=3), raw=True, max_new_tokens=12).text
    assert SzilardLM(letter_engine()).generate_until(asked) == [expected]
    with caplog.at_level(logging.WARNING):
        SzilardLM(letter_engine(), method="lead").generate_until(asked)
    assert "num_beams=3 does not act" in caplog.text


def test_a_full_accelerator_halves_an_automatic_batch(monkeypatch):
    lm = SzilardLM(letter_engine(), batch_size="auto", max_batch_size=4)
    sizes, generate = [], lm.engine.generate

    def small(prompts, *args, **kwargs):
        sizes.append(len(prompts))
        if len(prompts) > 1:
            raise torch.OutOfMemoryError("full")
        return generate(prompts, *args, **kwargs)

    monkeypatch.setattr(lm.engine, "generate", small)
    texts = lm.generate_until(requests(*((prompt, STOP_FREE) for prompt in PROMPTS)))
    assert sizes == [4, 2, 1, 1, 1, 1, 1]
    assert texts == SzilardLM(letter_engine()).generate_until(requests(*((p, STOP_FREE) for p in PROMPTS)))
    fixed = SzilardLM(lm.engine, batch_size=2)
    with pytest.raises(torch.OutOfMemoryError):
        fixed.generate_until(requests(*((prompt, STOP_FREE) for prompt in PROMPTS)))


def test_only_what_follows_the_thought_is_the_answer(lm):
    whole = lm.generate_until(requests((PROMPTS[0], STOP_FREE)))[0]
    thinking = SzilardLM(letter_engine(), think_end_token=whole[5])
    assert thinking.generate_until(requests((PROMPTS[0], STOP_FREE))) == [whole.split(whole[5])[-1].lstrip()]


# ---- templates ---------------------------------------------------------------------------------------------------


def test_chats_become_text(lm, caplog):
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}]
    assert lm.apply_chat_template(chat[:1]) == "[user] Hi\n[assistant] "
    assert lm.apply_chat_template(chat, add_generation_prompt=False).endswith("[assistant] Yes")
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert lm.apply_chat_template([{"role": "system", "content": "S"}, chat[0]]) == "[user] Hi\n[assistant] "
    assert caplog.text.count("refuses system turns") == 1
    assert "[user]" not in lm.tokenizer_name and lm.chat_template(True) == lm.tokenizer.chat_template


def test_a_model_without_a_template_is_refused(lm):
    lm.tokenizer.chat_template = None
    with pytest.raises(ValueError, match="letters has no chat template: leave out --apply_chat_template"):
        lm.apply_chat_template([{"role": "user", "content": "Hi"}])


def test_a_text_that_begins_with_bos_gets_no_second_one():
    lm = SzilardLM(letter_engine(bos=True))
    assert lm.tok_encode("a") == lm.tok_encode("<bos>a") and lm.tok_encode("a")[0] == 2
    assert lm.tok_encode("a", add_special_tokens=False) == lm.tok_encode("a")[1:]


# ---- refusals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"metod": "lead"}, "no model argument 'metod'; did you mean 'method'"),
        ({"method": "leed"}, "no method 'leed'; did you mean 'lead'"),
        ({"method": "lead", "method.windw": 3}, "no option 'windw'; did you mean 'window'"),
        ({"method": "lead", "method.max_switches": "many"}, "max_switches must be a whole number or none"),
        ({"method.window": 3}, "method.window needs a method"),
        ({"batch_size": 0}, "batch_size must be"),
        ({"batch_size": "some"}, "batch_size must be"),
        ({"max_length": 300}, "more than the context window of letters, 256"),
    ],
)
def test_bad_arguments_are_refused_in_one_sentence(arguments, message):
    with pytest.raises(ValueError, match=message):
        SzilardLM(letter_engine(), **arguments)


def test_a_model_that_cannot_run_the_method_is_refused():
    engine = letter_engine()
    engine.provides = frozenset({"logits"})
    with pytest.raises(ValueError, match="'lead' needs embeddings_in"):
        SzilardLM(engine, method="lead")


def test_what_does_not_fit_is_refused():
    lm = SzilardLM(letter_engine(), max_length=8)
    with pytest.raises(ValueError, match="continuation has 9 tokens, but letters takes 1 to 8"):
        lm.loglikelihood(requests(("a", "b" * 9)))
    with pytest.raises(ValueError, match="max_gen_toks=8 leaves no room"):
        lm.generate_until(requests(("a", {"until": [], "max_gen_toks": 8})))


def test_the_library_itself_does_not_import_the_harness():
    code = "import sys, szilard, szilard.cli.main; assert 'lm_eval' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


# ---- the harness -------------------------------------------------------------------------------------------------

QUESTIONS = [("Is it red?", ["yes", "no", "perhaps"]), ("Two and two?", ["four", "five"]), ("Why?", ["so", "not so"])]


@pytest.fixture
def tasks(tmp_path):
    """A folder with a task of choices and a task of texts."""
    records = [{"question": question, "choices": choices, "answer": 0} for question, choices in QUESTIONS]
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, records)))
    shared = (
        f"dataset_path: json\ndataset_kwargs:\n  data_files:\n    test: {tmp_path / 'data.jsonl'}\n"
        'test_split: test\ndoc_to_text: "Q: {{question}}\\nA:"\n'
    )
    (tmp_path / "pick.yaml").write_text(
        "task: tiny_pick\noutput_type: multiple_choice\ndoc_to_choice: choices\ndoc_to_target: answer\n" + shared
    )
    (tmp_path / "write.yaml").write_text(
        'task: tiny_write\noutput_type: generate_until\ndoc_to_target: "{{choices[0]}}"\n'
        'generation_kwargs:\n  until: ["\\n"]\n  max_gen_toks: 8\n  do_sample: false\n'
        "metric_list:\n  - metric: exact_match\n    aggregation: mean\n    higher_is_better: true\n" + shared
    )
    return tmp_path


@pytest.fixture
def letter_folder(tmp_path):
    folder = tmp_path / "model"
    tiny_model("llama").save_pretrained(folder)
    letter_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def data_cache(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def evaluate(tasks, model_args, **options):
    from lm_eval.tasks import TaskManager

    return lm_eval.simple_evaluate(
        model="szilard",
        model_args=model_args,
        tasks=["tiny_pick", "tiny_write"],
        task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
        bootstrap_iters=0,
        **options,
    )


@pytest.mark.parametrize("chat", [False, True])
def test_the_harness_runs_its_tasks(tasks, letter_folder, data_cache, chat):
    found = evaluate(
        tasks, f"pretrained={letter_folder},dtype=float64,device=cpu", batch_size=2, apply_chat_template=chat
    )
    engine = szilard.load(letter_folder, dtype="float64", device="cpu")
    samples = {name: sorted(rows, key=lambda row: row["doc_id"]) for name, rows in found["samples"].items()}
    for row, (question, choices) in zip(samples["tiny_pick"], QUESTIONS, strict=True):
        prompt = f"[user] Q: {question}\nA:\n[assistant] " if chat else f"Q: {question}\nA:"
        lead = prompt.rstrip()  # the harness moves the space before an answer into the answer
        space = prompt[len(lead) :] or " "
        for choice, response in zip(choices, row["resps"], strict=True):
            context, continuation = engine.tokenizer.encode(lead), engine.tokenizer.encode(space + choice)
            assert response[0][0] == pytest.approx(direct(engine.tokenizer, context, continuation)[0], abs=1e-4)
    for row, (question, _) in zip(samples["tiny_write"], QUESTIONS, strict=True):
        prompt = f"[user] Q: {question}\nA:\n[assistant] " if chat else f"Q: {question}\nA:"
        expected = engine.generate(prompt, raw=True, max_new_tokens=8).text.split("\n")[0]
        assert row["resps"] == [[expected]]
    assert 0 <= found["results"]["tiny_pick"]["acc,none"] <= 1
    assert found["config"]["szilard_engine"] == "transformers"


def test_arguments_of_the_command_line_reach_the_model(tasks, letter_folder, data_cache):
    arguments = f"pretrained={letter_folder},dtype=float64,device=cpu,method=lead,method.window=2,method.anchor=none"
    found = evaluate(tasks, arguments)
    assert found["config"]["szilard_method"] == "lead(window=2, anchor=None)"
    method = szilard.Lead(window=2, anchor=None)
    engine = szilard.load(letter_folder, dtype="float64", device="cpu")
    for row in found["samples"]["tiny_write"]:
        question = QUESTIONS[row["doc_id"]][0]
        expected = engine.generate(f"Q: {question}\nA:", method, raw=True, max_new_tokens=8).text
        assert row["resps"] == [[expected.split("\n")[0]]]


@pytest.mark.slow
def test_the_command_runs_where_the_harness_knows_no_entry_points(tasks, letter_folder, tmp_path):
    command = [sys.executable, "-m", "szilard.evaluation.lm_eval", "--model", "szilard", "--tasks", "tiny_write"]
    command += ["--model_args", f"pretrained={letter_folder},device=cpu,method=lead,method.window=2"]
    command += ["--include_path", str(tasks), "--output_path", str(tmp_path / "out")]
    quiet = {**os.environ, "HF_DATASETS_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(command, env=quiet, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0 and "tiny_write" in ran.stdout, ran.stderr
    (results,) = (tmp_path / "out").rglob("results_*.json")
    assert json.loads(results.read_text())["config"]["szilard_method"] == "lead(window=2)"


def test_the_harness_keeps_its_own_models():
    assert registry.get_model("szilard") is SzilardLM and registry.get_model("dummy").__name__ == "DummyLM"


def test_the_package_names_its_model_to_the_harness():
    found = [point for point in entry_points(group="lm_eval.models") if point.name == "szilard"]
    if not found:
        pytest.skip("installed before the entry point was added")
    assert found[0].load() is SzilardLM


def test_a_harness_that_has_read_the_entry_point_loads_it():
    code = """
        import sys
        from importlib.metadata import EntryPoint
        import lm_eval.models
        from lm_eval.api import registry

        point = EntryPoint("szilard", "szilard.evaluation.lm_eval:SzilardLM", "lm_eval.models")
        registry.model_registry.register("szilard", target=point)
        assert "szilard.evaluation.lm_eval" not in sys.modules
        assert registry.get_model("szilard").__name__ == "SzilardLM"
    """
    if not hasattr(registry, "model_registry"):
        pytest.skip("the harness is too old for placeholders")
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, timeout=120)
