"""The server and sweeps on Ray: a front that asks again, two replicas on this machine, and results as without Ray."""

# ruff: noqa: E402 - what is imported below is not there without Ray

import asyncio
import json
import threading

import pytest

pytest.importorskip("szilard.ray_cluster", exc_type=ImportError)  # before ray itself, whose settings it makes
pytest.importorskip("fastapi")
httpx = pytest.importorskip("httpx")

import ray
from ray import serve
from ray.exceptions import ActorDiedError
from ray.serve.exceptions import BackPressureError

from szilard.cli.main import main
from szilard.cli.serve import scale_from
from szilard.engines.choice import EngineChoice
from szilard.evaluation.store import ResultStore
from szilard.server.access import Keys
from szilard.server.ray_front import ATTEMPTS, Front, merged_metrics
from szilard.server.ray_serve import APPLICATION, ReplicaSpec, Scale, application
from szilard.server.settings import ServerSettings

# ---- the front, on replicas that are only played -------------------------------------------------------------

START = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]}
ROLE = {"type": "http.response.body", "body": b'data: {"choices":[{"delta":{"role":"assistant","content":""}}]}\n\n'}
TEXT = {"type": "http.response.body", "body": b'data: {"choices":[{"delta":{"content":"w9"}}]}\n\n'}
PING = {"type": "http.response.body", "body": b": ping\n\n", "more_body": True}
SCOPE = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "query_string": b"", "headers": []}


class Played:
    """A deployment whose requests go as they are written down: messages, then an error or an end."""

    def __init__(self, *runs):
        self.runs, self.asked, self.remote = list(runs), 0, self._remote

    def options(self, **_):
        return self

    def _remote(self, scope, body):
        messages, error = self.runs[self.asked]
        self.asked += 1

        class Response:
            async def __aiter__(self):
                for message in messages:
                    yield {**message, "headers": list(message.get("headers", ()))}
                if error is not None:
                    raise error

            def cancel(self):
                pass

        return Response()


def replied(played):
    """Status, headers and body that a client gets."""

    async def run():
        sent = []

        async def receive():
            return {"type": "http.request", "body": b"{}", "more_body": False}

        async def send(message):
            sent.append(message)

        from starlette.requests import Request

        reply = await Front(played)(Request(SCOPE, receive))
        await reply({**SCOPE, "asgi": {"spec_version": "2.4"}}, receive, send)
        return sent[0]["status"], dict(sent[0]["headers"]), b"".join(one.get("body", b"") for one in sent)

    return asyncio.run(run())


def test_a_request_is_asked_again_when_its_replica_dies_before_any_text():
    played = Played(([], ActorDiedError()), ([START, ROLE], ActorDiedError()), ([START, ROLE, TEXT], None))
    status, headers, body = replied(played)
    assert (status, played.asked, headers[b"x-szilard-attempts"]) == (200, 3, b"2")  # when its headers were sent
    assert body == ROLE["body"] + TEXT["body"]


def test_a_stream_that_had_text_ends_with_an_error_in_openais_format():
    played = Played(([START, ROLE, TEXT], ActorDiedError()))
    status, _, body = replied(played)
    assert (status, played.asked) == (200, 1)
    last = json.loads(body.removeprefix(ROLE["body"] + TEXT["body"]).removeprefix(b"data: "))
    assert (last["error"]["type"], last["error"]["code"]) == ("server_error", "replica_lost")


def test_a_request_that_no_replica_survives_is_refused():
    played = Played(*[([], ActorDiedError())] * ATTEMPTS)
    status, _, body = replied(played)
    assert (status, played.asked, json.loads(body)["error"]["code"]) == (503, ATTEMPTS, "replica_lost")


def test_bodies_are_bounded_and_keys_asked_before_a_replica_is():
    async def run(front):
        async def receive():
            return {"type": "http.request", "body": b"x" * 600, "more_body": True}  # without an end

        from starlette.requests import Request

        return (await front(Request(SCOPE, receive))).status_code

    played = Played()
    assert asyncio.run(run(Front(played, 2000))) == 413
    assert asyncio.run(run(Front(played, 2000, Keys(["secret"])))) == 401
    assert played.asked == 0


def test_full_queues_are_told_as_429():
    status, headers, body = replied(Played(([], BackPressureError(3, 3))))
    assert (status, headers[b"retry-after"], json.loads(body)["error"]["type"]) == (429, b"1", "rate_limit_error")


def test_counters_of_replicas_are_told_apart():
    text = '# HELP rows Rows.\n# TYPE rows gauge\nrows {}\n# HELP t T.\n# TYPE t counter\nt{{kind="x"}} 2.0\n'
    merged = merged_metrics({"a": text.format("1.0"), "b": text.format("0.0")})
    assert merged.splitlines() == [
        "# HELP rows Rows.", "# TYPE rows gauge", 'rows{replica="a"} 1.0', 'rows{replica="b"} 0.0',
        "# HELP t T.", "# TYPE t counter", 't{replica="a",kind="x"} 2.0', 't{replica="b",kind="x"} 2.0',
    ]  # fmt: skip


# ---- the command line ----------------------------------------------------------------------------------------


def test_replicas_are_a_number_or_a_range():
    assert scale_from(None, None) == (1, None) and scale_from(3, None) == (3, None)
    assert scale_from(None, "1:4") == (1, 4)
    for replicas, autoscale in ((2, "1:4"), (None, "4:1"), (None, "0:2"), (None, "3"), (None, "a:b")):
        with pytest.raises(ValueError, match="--autoscale"):
            scale_from(replicas, autoscale)


def test_replicas_need_ray(capsys, model_folder):
    assert main(["serve", "--model", model_folder, "--replicas", "2"]) == 2
    assert "add --ray" in capsys.readouterr().err


# ---- two replicas --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster():
    ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False)
    yield
    serve.shutdown()
    ray.shutdown()


@pytest.fixture(scope="module")
def url(cluster, model_folder):
    from szilard.server.run import bind

    socket = bind("127.0.0.1", 0)
    port = socket.getsockname()[1]
    socket.close()
    spec = ReplicaSpec(EngineChoice(model_folder), ServerSettings(max_batch=4), name="tiny")
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(application(spec, Scale(2, cpus=1)), name=APPLICATION, route_prefix="/")
    return f"http://127.0.0.1:{port}"


def body(tokens=12, **more):
    return {"model": "tiny", "messages": [{"role": "user", "content": "w9 w8 w7"}], "max_tokens": tokens, **more}


def events(lines):
    return [json.loads(line[6:]) for line in lines if line.startswith("data: ") and line != "data: [DONE]"]


def said(chunks):
    return "".join(one["delta"].get("content") or "" for chunk in chunks for one in chunk.get("choices", ()))


def test_replies_and_streams_come_through_rays_proxy(url):
    whole = httpx.post(f"{url}/v1/chat/completions", json=body(), timeout=60)
    text = whole.json()["choices"][0]["message"]["content"]
    assert whole.status_code == 200 and len(text.split()) > 3 and whole.headers["x-szilard-replica"]
    with httpx.stream("POST", f"{url}/v1/chat/completions", json=body(stream=True), timeout=60) as reply:
        assert reply.headers["content-type"].startswith("text/event-stream")
        pieces = [piece for piece in reply.iter_raw() if piece]
    assert len(pieces) > 3 and b"".join(pieces).endswith(b"data: [DONE]\n\n")
    assert said(events(b"".join(pieces).decode().splitlines())) == text


def test_errors_keep_their_form_and_counters_name_the_replicas(url):
    refused = httpx.post(f"{url}/v1/chat/completions", json=body(model="other"), timeout=60)
    assert refused.status_code == 404 and refused.json()["error"]["code"] == "model_not_found"
    counters = httpx.get(f"{url}/metrics", timeout=60).text
    rows = [line for line in counters.splitlines() if line.startswith("szilard_rows{replica=")]
    assert len(rows) == 2 and all(line.endswith(" 0.0") for line in rows)


def test_a_killed_replica_takes_only_its_own_requests_with_it(url):
    expected = httpx.post(f"{url}/v1/chat/completions", json=body(200), timeout=60)
    expected = expected.json()["choices"][0]["message"]["content"]
    found = []

    def ask(kills):
        with httpx.stream("POST", f"{url}/v1/chat/completions", json=body(200, stream=True), timeout=120) as reply:
            lines = []
            for line in reply.iter_lines():
                lines.append(line)
                if kills and said(events(lines)):
                    kills = False
                    name = f"SERVE_REPLICA::{APPLICATION}#replica#{reply.headers['x-szilard-replica']}"
                    ray.kill(ray.get_actor(name, namespace="serve"), no_restart=False)
        found.append(events(lines))

    threads = [threading.Thread(target=ask, args=(place == 0,)) for place in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    for chunks in found:
        if "error" in chunks[-1]:
            assert chunks[-1]["error"]["code"] == "replica_lost" and expected.startswith(said(chunks))
        else:
            assert said(chunks) == expected
    later = httpx.post(f"{url}/v1/chat/completions", json=body(200), timeout=60)
    assert later.json()["choices"][0]["message"]["content"] == expected


# ---- sweeps --------------------------------------------------------------------------------------------------


def test_a_sweep_on_ray_has_the_results_of_one_without(cluster, tmp_path, model_folder, capsys):
    data = tmp_path / "gsm8k.jsonl"
    rows = [{"question": f"w{n + 9} w{n + 20}", "answer": f"so #### {n}"} for n in range(5)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    common = [
        "evaluate",
        "--methods",
        "greedy,sampling",
        "--task",
        "gsm8k",
        "--data",
        str(data),
        "--model",
        model_folder,
    ]
    common += ["--max-new-tokens", "6", "--batch-size", "2", "--seeds", "2", "--traces"]
    assert main([*common, "-o", str(tmp_path / "here")]) == 0
    on_ray = [*common, "--ray", "-o", str(tmp_path / "there")]
    assert main([*on_ray, "--limit", "2"]) == 0
    kept = ResultStore(tmp_path / "there").table().to_pylist()
    assert main(on_ray) == 0
    here, there = (ResultStore(tmp_path / name).table().to_pylist() for name in ("here", "there"))
    unlike = {"wall_seconds", "finished_at", "environment"}
    assert [{k: v for k, v in row.items() if k not in unlike} for row in here] == [
        {k: v for k, v in row.items() if k not in unlike} for row in there
    ]
    assert all(row in there for row in kept) and len(there) == 15
    assert all((tmp_path / "there" / row["trace"]).is_file() for row in there)
    capsys.readouterr()
    assert main([*on_ray, "--max-new-tokens", "5"]) == 2
    assert "give this one a label of its own" in capsys.readouterr().err


def test_the_headers_and_comments_of_a_stream_are_sent_before_its_text():
    async def run():
        front = Front(Played(([START, PING, ROLE], ActorDiedError()), ([START, ROLE, TEXT], None)))
        return [message["type"] + str(message.get("body", b"")[:2]) async for message in front._messages(SCOPE, b"{}")]

    body = "http.response.body"
    assert asyncio.run(run()) == ["http.response.startb''", f"{body}b': '", f"{body}b'da'", f"{body}b'da'"]


def test_a_whole_reply_begins_with_its_body():
    whole = {**START, "headers": [(b"content-type", b"application/json")]}
    status, headers, body = replied(Played(([whole], ActorDiedError()), ([whole, TEXT], None)))
    assert (status, headers[b"x-szilard-attempts"], body) == (200, b"2", TEXT["body"])
