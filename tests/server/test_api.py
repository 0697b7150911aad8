"""OpenAI's endpoints on a tiny model: answers, streams, methods, traces, and what is refused."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

pytest.importorskip("fastapi")

from fastapi.testclient import TestClient

from szilard.server.access import Keys
from tests.server.conftest import serving

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "w3 w4 w5"}], "max_tokens": 8}


def chunks(reply: Any) -> list[dict[str, Any]]:
    """Of a stream."""
    lines = [line[len("data: ") :] for line in reply.text.splitlines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def texts(engine: Any, prompt: Any, **options: Any) -> str:
    return engine.generate(prompt, max_new_tokens=8, **options).text


def test_a_chat_is_answered_as_generate_answers(client: Any, tiny_engine: Any) -> None:
    reply = client.post("/v1/chat/completions", json=CHAT).json()
    own = tiny_engine.generate(CHAT["messages"], max_new_tokens=8)
    assert reply["choices"][0]["message"] == {"role": "assistant", "content": own.text, "refusal": None}
    assert reply["choices"][0]["finish_reason"] == own.finish_reason
    tokens = {"prompt_tokens": own.prompt_tokens, "completion_tokens": len(own.tokens)}
    assert reply["usage"] == tokens | {"total_tokens": sum(tokens.values())}
    assert reply["object"] == "chat.completion" and reply["id"].startswith("chatcmpl-")


@pytest.mark.parametrize("method", [None, "lead", "prompt-lookup", "beam-search", "soft-thinking", "greedy+snapkv"])
def test_a_stream_says_what_the_whole_answer_says(client: Any, method: str | None) -> None:
    asked = CHAT if method is None else CHAT | {"szilard": {"method": method}}
    whole = client.post("/v1/chat/completions", json=asked).json()
    parts = chunks(client.post("/v1/chat/completions", json=asked | {"stream": True}))
    assert parts[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    said = "".join(part["choices"][0]["delta"].get("content", "") for part in parts)
    assert said == whole["choices"][0]["message"]["content"]
    assert parts[-1]["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"]


def test_the_models_suffix_chooses_a_method_and_a_trace_tells_of_every_step(client: Any, tiny_engine: Any) -> None:
    asked = CHAT | {"model": "tiny:lead", "szilard": {"trace": True}}
    choice = client.post("/v1/chat/completions", json=asked).json()["choices"][0]
    own = tiny_engine.generate(CHAT["messages"], "lead", max_new_tokens=8)
    records, table = choice["szilard"]["trace"], own.trace.to_pandas()
    assert [record["token"] for record in records] == table["token"].tolist()
    assert [record["entropy"] for record in records] == pytest.approx(table["entropy"].tolist())
    assert [record["mode"] for record in records] == table["mode"].tolist()
    assert choice["szilard"]["cost"]["forward_passes"]


def test_completions_take_texts_and_ids_and_many_of_them(client: Any, tiny_engine: Any) -> None:
    ids = tiny_engine.tokenizer("w3 w4")["input_ids"]
    own = texts(tiny_engine, "w3 w4", raw=True)
    for prompt in ("w3 w4", ids):
        reply = client.post("/v1/completions", json={"model": "tiny", "prompt": prompt, "max_tokens": 8}).json()
        assert [choice["text"] for choice in reply["choices"]] == [own]
    asked = {"model": "tiny", "prompt": ["w3 w4", "w9"], "n": 2, "max_tokens": 8}
    reply = client.post("/v1/completions", json=asked).json()
    other = texts(tiny_engine, "w9", raw=True)
    assert [choice["text"] for choice in reply["choices"]] == [own, own, other, other]
    assert reply["usage"]["prompt_tokens"] == 3


def test_seeded_draws_come_again_and_choices_differ(client: Any) -> None:
    asked = CHAT | {"temperature": 1.0, "seed": 5, "n": 3}
    first, second = (client.post("/v1/chat/completions", json=asked).json() for _ in range(2))
    said = [choice["message"]["content"] for choice in first["choices"]]
    assert said == [choice["message"]["content"] for choice in second["choices"]]
    assert len(set(said)) > 1


def test_logprobs_are_those_of_the_model(client: Any, tiny_engine: Any) -> None:
    reply = client.post("/v1/chat/completions", json=CHAT | {"logprobs": True, "top_logprobs": 3}).json()
    entries = reply["choices"][0]["logprobs"]["content"]
    state = tiny_engine.state(CHAT["messages"], max_new_tokens=8)
    scores = state.prefill()[0].log_softmax(-1)
    best = scores.topk(3)
    assert entries[0]["logprob"] == pytest.approx(float(best.values[0]))
    told = [entry["logprob"] for entry in entries[0]["top_logprobs"]]
    assert told == pytest.approx(best.values.tolist())
    asked = {"model": "tiny", "prompt": "w3", "max_tokens": 2, "logprobs": 1}
    old = client.post("/v1/completions", json=asked).json()["choices"][0]["logprobs"]
    assert len(old["tokens"]) == len(old["token_logprobs"]) == len(old["text_offset"]) == 2


def test_stop_texts_end_an_answer_and_are_left_out(client: Any, tiny_engine: Any) -> None:
    words = texts(tiny_engine, CHAT["messages"]).split()
    for method in (None, "lead"):
        asked = CHAT | {"stop": [words[2]]} | ({} if method is None else {"szilard": {"method": method}})
        whole = texts(tiny_engine, CHAT["messages"], **({} if method is None else {"method": method}))
        choice = client.post("/v1/chat/completions", json=asked).json()["choices"][0]
        if words[2] in whole:
            assert choice["message"]["content"] == whole[: whole.index(words[2])]
            assert choice["finish_reason"] == "stop"


def test_usage_of_a_stream_comes_last_where_it_is_asked_for(client: Any) -> None:
    asked = CHAT | {"stream": True, "stream_options": {"include_usage": True}}
    parts = chunks(client.post("/v1/chat/completions", json=asked))
    assert parts[-1]["choices"] == [] and parts[-1]["usage"]["completion_tokens"] == 8


def test_models_health_metrics_and_methods(client: Any) -> None:
    names = [model["id"] for model in client.get("/v1/models").json()["data"]]
    assert names[0] == "tiny" and "tiny:lead" in names and "tiny:top-k-unmask" not in names
    assert client.get("/v1/models/tiny:lead").json()["id"] == "tiny:lead"
    missing = client.get("/v1/models/other")
    assert missing.status_code == 404 and missing.json()["error"]["code"] == "model_not_found"
    assert client.get("/healthz").json() == {"status": "ok"}
    client.post("/v1/chat/completions", json=CHAT)
    assert 'szilard_tokens_total{kind="completion"} 8.0' in client.get("/metrics").text
    described = {method["name"]: method for method in client.get("/v1/szilard/methods").json()["methods"]}
    assert {"enter_entropy"} <= {option["name"] for option in described["lead"]["options"]}


BIG = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]}


@pytest.mark.parametrize(
    ("changed", "status", "said"),
    [
        ({"model": "other"}, 404, "there is no model 'other' here; this server runs 'tiny'"),
        ({"model": "tiny:leed"}, 404, "did you mean 'lead'"),
        ({"szilard": {"method": "lead", "options": {"windw": 1}}}, 400, "did you mean"),
        ({"szilard": {"method": "lead", "options": {"window": "many"}}}, 400, "cannot be text in a request"),
        ({"szilard": {"method": "draft-model", "options": {"draft": "/etc/passwd"}}}, 400, "who runs the server"),
        ({"szilard": {"options": {"window": 3}}}, 400, "name it in szilard.method"),
        ({"model": "tiny:lead", "szilard": {"method": "ead"}}, 400, "give one"),
        ({"messages": []}, 422, "at least 1 item"),
        ({"messages": [{"role": "user", "content": ""}]}, 400, "empty"),
        ({"messages": [{"role": "robot", "content": "w3"}]}, 422, "messages.0.role"),
        ({"messages": [BIG]}, 400, "reads no images"),
        ({"temperature": -1}, 422, "temperature"),
        ({"temperature": "hot"}, 422, "temperature"),
        ({"top_p": 0}, 422, "top_p"),
        ({"seed": 10**30}, 422, "seed"),
        ({"n": 100}, 400, "n=100 is more than the 8 allowed"),
        ({"max_tokens": 65}, 400, "65 new tokens are more than the 64 allowed"),
        ({"max_tokens": 0}, 422, "max_tokens"),
        ({"messages": [{"role": "user", "content": "w3 " * 5000}]}, 400, "context window"),
        ({"top_logprobs": 3}, 400, "needs logprobs"),
        ({"logprobs": True, "szilard": {"method": "lead"}}, 400, "plain decoding"),
        ({"tools": [{"type": "function"}]}, 422, "'tools' is not a field"),
        ({"response_format": {"type": "json_object"}}, 422, "'response_format' is not a field"),
        ({"frequency_penalty": 1.0}, 422, "frequency_penalty"),
    ],
)
def test_what_cannot_be_served_is_told_in_a_sentence(
    client: Any, changed: dict[str, Any], status: int, said: str
) -> None:
    reply = client.post("/v1/chat/completions", json=CHAT | changed)
    error = reply.json()["error"]
    assert (reply.status_code, error["type"]) == (status, "invalid_request_error")
    assert said in error["message"]


def test_a_body_that_is_no_json_or_too_large(tiny_engine: Any) -> None:
    for client in serving(tiny_engine, max_body_bytes=1000):
        broken = client.post("/v1/chat/completions", content=b"{", headers={"content-type": "application/json"})
        assert broken.status_code == 400 and "no valid JSON" in broken.json()["error"]["message"]
        large = client.post("/v1/chat/completions", json=CHAT | {"user": "x" * 2000})
        assert large.status_code == 413 and "1000 bytes" in large.json()["error"]["message"]
        missing = client.get("/v1/nothing")
        assert missing.status_code == 404 and missing.json()["error"]["message"].startswith("Not Found")


@pytest.mark.parametrize("prompt", [[-1], [10**20], [[3], [10**20]], [], [[]], [3.5], None, [9999]])
def test_ids_outside_the_vocabulary_are_refused(client: Any, prompt: Any) -> None:
    reply = client.post("/v1/completions", json={"model": "tiny", "prompt": prompt})
    assert reply.status_code in (400, 422) and "prompt" in reply.json()["error"]["param"]


def test_keys_open_the_server_and_others_do_not(tiny_engine: Any) -> None:
    for client in serving(tiny_engine, keys=Keys(["one", "two"])):
        assert client.get("/healthz").status_code == 200
        for given in (None, "Bearer three", "Basic one", "Bearer "):
            reply = client.get("/v1/models", headers={} if given is None else {"Authorization": given})
            assert reply.status_code == 401 and reply.json()["error"]["code"] == "invalid_api_key"
        assert client.get("/v1/models", headers={"Authorization": "Bearer two"}).status_code == 200


def test_a_server_of_this_machine_answers_under_its_own_names_alone(tiny_engine: Any) -> None:
    for client in serving(tiny_engine, hosts=("127.0.0.1", "localhost", "::1")):
        for given, status in (("localhost:80", 200), ("[::1]:80", 200), ("127.0.0.1", 200), ("evil.example:80", 403)):
            assert client.get("/v1/models", headers={"Host": given}).status_code == status


def test_pictures_are_data_urls_of_bounded_size() -> None:
    import io

    from PIL import Image

    from szilard.server.errors import RequestError
    from szilard.server.pictures import picture_of

    buffer = io.BytesIO()
    Image.new("RGBA", (20, 10)).save(buffer, "PNG")
    whole = base64.b64encode(buffer.getvalue()).decode()
    found = picture_of(f"data:image/png;base64,{whole}", 200)
    assert (found.size, found.mode) == ((20, 10), "RGB")
    for url, status, said in (
        ("https://example.com/a.png", 400, "fetches nothing"),
        ("file:///etc/passwd", 400, "fetches nothing"),
        ("data:image/png,abc", 400, "must be base64"),
        ("data:image/png;base64,@@", 400, "no valid base64"),
        (f"data:image/png;base64,{whole[:40]}", 400, "no whole picture"),
    ):
        with pytest.raises(RequestError, match=said) as error:
            picture_of(url, 200)
        assert error.value.status == status
    with pytest.raises(RequestError, match="20 x 10 pixels") as error:
        picture_of(f"data:image/png;base64,{whole}", 199)
    assert error.value.status == 413


def test_fields_that_ask_for_nothing_are_let_pass(client: Any) -> None:
    plain = client.post("/v1/chat/completions", json=CHAT).json()["choices"][0]["message"]
    more = {
        "tools": [], "tool_choice": "none", "parallel_tool_calls": True, "response_format": {"type": "text"},
        "logit_bias": {}, "store": False, "metadata": {"a": "b"}, "seed": -1, "service_tier": "auto", "stop": None,
        "presence_penalty": 0, "frequency_penalty": 0.0, "n": 1,
    }  # fmt: skip
    turns = [
        {"role": "user", "content": "w3"},
        {"role": "assistant", "content": "w4", "refusal": None, "tool_calls": [], "annotations": []},
        *CHAT["messages"],
    ]
    assert client.post("/v1/chat/completions", json=CHAT | more).json()["choices"][0]["message"] == plain
    assert client.post("/v1/chat/completions", json=CHAT | more | {"messages": turns}).status_code == 200


def test_sampling_as_a_method_keeps_its_own_settings(client: Any, tiny_engine: Any) -> None:
    def text(**changed: Any) -> str:
        found = client.post("/v1/chat/completions", json=CHAT | {"model": "tiny:sampling"} | changed).json()
        return str(found["choices"][0]["message"]["content"])

    greedy = client.post("/v1/chat/completions", json=CHAT).json()["choices"][0]["message"]["content"]
    assert text(temperature=0) == greedy
    assert text(temperature=2, szilard={"method": "sampling", "options": {"top_k": 1}}) == greedy
    own = {"method": "sampling", "options": {"seed": 7}}
    assert text(szilard=own) == text(szilard=own) == text(seed=7)
    assert text(szilard=own) != greedy


def test_whole_temperatures_draw_under_a_method_too(client: Any) -> None:
    asked = CHAT | {"model": "tiny:lead", "temperature": 2, "seed": 1}
    assert client.post("/v1/chat/completions", json=asked).status_code == 200
    told = client.post("/v1/chat/completions", json=asked | {"temperature": 1e-300}).json()["error"]["message"]
    assert "temperature" in told


def test_a_name_may_hold_a_colon(tiny_engine: Any) -> None:
    from szilard.server.app import create_app
    from szilard.server.settings import ServerSettings

    app = create_app(tiny_engine, ServerSettings(), name="tiny:1b")
    with TestClient(app) as client:
        for name, status in (("tiny:1b", 200), ("Tiny:1B:lead", 200), ("tiny", 404), ("tiny:1bx", 404)):
            assert client.post("/v1/chat/completions", json=CHAT | {"model": name}).status_code == status


def test_a_part_of_a_character_has_no_bytes_of_its_own() -> None:
    from szilard.server.replies import Replies

    words = {1: "a", 2: "\N{REPLACEMENT CHARACTER}"}
    replies = Replies(chat=True, model="m", word=words.__getitem__, trace=False, logprobs=True)
    assert [replies._told(token, -1.0)["bytes"] for token in (1, 2)] == [[97], None]


def test_health_is_asked_without_a_body(client: Any) -> None:
    assert client.head("/healthz").status_code == 200


def test_pages_that_are_allowed_may_send_the_headers_that_clients_send(tiny_engine: Any) -> None:
    asked = {
        "Origin": "https://page.example", "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,x-stainless-os",
    }  # fmt: skip
    for client in serving(tiny_engine, cors_origins=("https://page.example",)):
        assert client.options("/v1/chat/completions", headers=asked).status_code == 200


def test_a_variable_for_keys_that_holds_none_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from szilard.server.access import read_keys

    monkeypatch.setenv("SZILARD_API_KEYS", " , ")
    with pytest.raises(ValueError, match="holds no key"):
        read_keys(None)


def test_images_stay_in_their_turn(tiny_engine: Any) -> None:
    import io

    from PIL import Image

    from szilard.engines.transformers_engine import _with_images
    from szilard.server.schemas import ChatRequest
    from szilard.server.service import Service
    from szilard.server.settings import ServerSettings

    class Sees:
        name, provides = "sees", frozenset({"vision", "logits"})

    def shown(colour: str) -> dict[str, Any]:
        buffer = io.BytesIO()
        Image.new("RGB", (4, 4), colour).save(buffer, "PNG")
        url = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
        return {"type": "image_url", "image_url": {"url": url}}

    turns = [
        {"role": "user", "content": [{"type": "text", "text": "this"}, shown("red")]},
        {"role": "assistant", "content": "red"},
        {"role": "user", "content": [shown("blue"), {"type": "text", "text": "and this?"}]},
    ]
    service = Service(Sees(), ServerSettings())  # type: ignore[arg-type]
    pictures: list[Any] = []
    chat = [service._turn(one, pictures) for one in ChatRequest(model="sees", messages=turns).messages]
    encoded = _with_images(chat, pictures)
    kinds = [[part["type"] for part in turn["content"]] for turn in encoded]
    assert kinds == [["text", "image"], ["text"], ["image", "text"]]
    assert [pictures.index(part["image"]) for turn in encoded for part in turn["content"] if "image" in part] == [0, 1]
