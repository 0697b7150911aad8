"""The page at `/`, used as a visitor would in a headless Chromium."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

for _module, _what in (("fastapi", "the server"), ("uvicorn", "the server"), ("playwright", "a browser to drive")):
    pytest.importorskip(_module, reason=f"{_module} is not installed: {_what}")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no `chromium`: the page needs a browser")

from playwright.sync_api import Browser, Page, Route, expect, sync_playwright  # noqa: E402

import szilard  # noqa: E402
from szilard.engines import TransformersEngine  # noqa: E402
from szilard.server import plain_run  # noqa: E402
from szilard.server.access import Keys  # noqa: E402
from szilard.server.app import create_app  # noqa: E402
from szilard.server.run import bind  # noqa: E402
from szilard.server.settings import ServerSettings  # noqa: E402
from tests.conftest import tiny_model, tiny_tokenizer  # noqa: E402

expect.set_options(timeout=20_000)  # milliseconds: a busy machine is slow, not wrong
OVER = re.compile("^(done|cut)")
Serve = Callable[..., str]


@pytest.fixture(scope="module")
def serve() -> Iterator[Serve]:
    """Starts a server in a thread: engine -> its address."""
    import uvicorn

    running = []

    def start(engine: Any, **settings: Any) -> str:
        listening = bind("127.0.0.1", 0)
        app = create_app(engine, ServerSettings(max_new_tokens=200), **settings)
        server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        running.append((server, thread))
        return f"http://127.0.0.1:{listening.getsockname()[1]}/"

    yield start
    for server, _ in running:
        server.should_exit = True
    for _, thread in running:
        thread.join(10)


@pytest.fixture(scope="module")
def tiny() -> TransformersEngine:
    return TransformersEngine(tiny_model("llama"), tiny_tokenizer(), name="tiny")


@pytest.fixture(scope="module")
def address(serve: Serve, tiny: TransformersEngine) -> str:
    return serve(tiny)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        yield started
        started.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Opens an address; the test fails where the page complains or calls another host."""
    opened: list[Page] = []
    wrong: list[str] = []

    def go(address: str, *, ready: bool = True, **options: Any) -> Page:
        page = browser.new_context(**options).new_page()
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda said: wrong.append(said.text) if "Content Security" in said.text else None)
        page.on("request", lambda one: None if one.url.startswith((address, "data:")) else wrong.append(one.url))
        opened.append(page)
        page.goto(address)
        if ready:
            expect(page.locator("#model")).not_to_have_text(re.compile("loading|not connected"))
            page.fill("#prompt", "w10 w11 w12 w10 w11")
            page.fill("#max_tokens", "8")
        return page

    yield go
    for page in opened:
        page.context.close()
    assert not wrong


@pytest.fixture
def page(open_page: Callable[..., Page], address: str) -> Page:
    return open_page(address)


def _ends(page: Page, count: int = 1) -> None:
    expect(page.locator("article")).to_have_count(count)
    for place in range(count):
        expect(page.locator("article .state").nth(place)).to_have_text(OVER)


def _costs(page: Page, place: int = 0) -> dict[str, str]:
    cost = page.locator("article .cost").nth(place)
    return dict(zip(cost.locator("dt").all_inner_texts(), cost.locator("dd:not(.bar)").all_inner_texts(), strict=True))


def test_a_prompt_streams_tokens_coloured_by_entropy_and_ends_with_its_cost(
    page: Page, tiny: TransformersEngine
) -> None:
    page.fill("#prompt", "w10 w11")
    page.click("#send")
    _ends(page)
    result = tiny.generate("w10 w11", szilard.Greedy(), max_new_tokens=8, trace=True)
    tokens = page.locator("article .text .t")
    shown = [float(value) for value in tokens.evaluate_all("all => all.map(t => t.style.getPropertyValue('--e'))")]
    assert shown == pytest.approx([step.entropy for step in result.trace], abs=1e-4)
    words = result.text.split()
    assert page.locator("article .text").inner_text().replace("·", "").split() == words
    costs = _costs(page)
    assert (costs["tokens"], costs["forward passes"]) == ("8", "8")
    assert costs["KV cache"].endswith("kB") and costs["wall time"].endswith(" s")
    curve = page.locator("article .curve").get_attribute("d")
    assert curve is not None and curve.count("L") == len(shown) - 1


def test_a_method_is_chosen_with_hyperparameters_as_the_server_describes_them(page: Page) -> None:
    page.get_by_label("Method", exact=True).select_option("lead")
    expect(page.locator(".picker .about").first).to_contain_text("2603.13366")
    page.get_by_text("Hyperparameters").first.click()
    window = page.get_by_label("window")
    assert window.get_attribute("placeholder") == "128"
    window.fill("3")
    page.get_by_label("max switches").fill("none")
    page.get_by_label("anchor decay").check()
    page.fill("#temperature", "0.5")
    page.fill("#seed", "7")
    page.get_by_text("System message").click()
    page.fill("#system", "w20")
    with page.expect_request("**/v1/chat/completions") as asked:
        page.click("#send")
    body = asked.value.post_data_json
    assert body["szilard"] == {
        "method": "lead", "options": {"window": 3, "max_switches": None, "anchor_decay": True}, "trace": True
    }  # fmt: skip
    assert (body["temperature"], body["seed"], body["max_tokens"]) == (0.5, 7, 8)
    assert [message["role"] for message in body["messages"]] == ["system", "user"]
    _ends(page)
    expect(page.locator("article h2")).to_have_text("lead window=3 max_switches=none anchor_decay=true")
    assert page.locator("article .t.latent").count() > 0


def test_two_methods_answer_side_by_side_with_bars_of_their_cost(page: Page) -> None:
    page.get_by_label("Compare two methods").check()
    page.get_by_label("Second method").select_option("prompt-lookup")
    page.fill("#max_tokens", "40")
    page.keyboard.press("Control+Enter")
    _ends(page, 2)
    boxes = [page.locator("article").nth(place).bounding_box() for place in range(2)]
    assert boxes[0] and boxes[1] and boxes[0]["y"] == boxes[1]["y"] and boxes[0]["x"] < boxes[1]["x"]
    plain, lookup = (_costs(page, place) for place in range(2))
    drafted = page.locator("article").nth(1).locator(".t.drafted").count()
    assert drafted > 0 and int(lookup["forward passes"]) < int(plain["forward passes"])
    bars = page.locator("article .bar i")
    widths = bars.evaluate_all("all => all.map(bar => parseFloat(bar.style.width))")
    half = len(widths) // 2
    assert len(widths) == 2 * len(plain)
    assert [max(pair) for pair in zip(widths[:half], widths[half:], strict=True)] == [100] * half


def test_errors_are_shown_in_one_line_and_the_next_request_goes(page: Page) -> None:
    page.get_by_label("Method", exact=True).select_option("lead")
    page.get_by_text("Hyperparameters").first.click()
    page.get_by_label("initial mode").fill("sideways")
    page.click("#send")
    expect(page.get_by_role("alert")).to_contain_text("sideways")
    expect(page.locator("article .state")).to_contain_text("sideways")
    page.get_by_label("initial mode").fill("")
    page.fill("#temperature", "9")
    page.click("#send")
    expect(page.get_by_role("alert")).to_have_text(re.compile("^Temperature: "))
    page.fill("#temperature", "")
    page.click("#send")
    _ends(page)
    expect(page.get_by_role("alert")).to_have_text("")


def test_escape_and_the_button_stop_an_answer(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    choose = plain_run.choose_rows
    monkeypatch.setattr(plain_run, "choose_rows", lambda *given: time.sleep(0.03) or choose(*given))
    page.fill("#max_tokens", "200")
    for stop in (lambda: page.keyboard.press("Escape"), lambda: page.click("#stop")):
        page.click("#send")
        page.locator("article .t").nth(2).wait_for()
        stop()
        expect(page.locator("article .state")).to_have_text(re.compile("^stopped · "))
        assert page.locator("article .t").count() < 200
        expect(page.locator("#send")).to_be_enabled()
        expect(page.locator("#stop")).to_be_disabled()


def test_a_phone_scrolls_in_one_direction_only(open_page: Callable[..., Page], address: str) -> None:
    page = open_page(address, viewport={"width": 360, "height": 740}, is_mobile=True, has_touch=True)
    page.get_by_label("Compare two methods").check()
    page.get_by_label("Method", exact=True).select_option("lead")
    for place in range(2):
        page.get_by_text("Hyperparameters").nth(place).click()
    page.click("#send")
    _ends(page, 2)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.locator("#send").is_visible() and page.locator("article").first.is_visible()


def test_everything_is_reached_by_keyboard_and_has_a_name(page: Page) -> None:
    page.get_by_label("Method", exact=True).select_option("prompt-lookup")
    page.get_by_label("Compare two methods").check()
    page.keyboard.press("Control+Enter")
    _ends(page, 2)
    page.locator("#theme").focus()
    look = """node => ({
        name: node.labels?.[0]?.textContent.trim() || node.ariaLabel || node.textContent.trim(), id: node.id,
        seen: getComputedStyle(node).outlineStyle !== "none", token: node.classList.contains("t")})"""
    reached = []
    for _ in range(60):
        page.keyboard.press("Tab")
        found = page.evaluate(f"({look})(document.activeElement)")
        if found["id"] == "" and found["name"].startswith("szilard"):  # the body: once around
            break
        reached.append(found)
    assert all(one["name"] and one["seen"] for one in reached), reached
    ids = {one["id"] for one in reached}
    assert {"prompt", "compare", "temperature", "top_p", "seed", "max_tokens", "send"} <= ids
    assert sum(one["token"] for one in reached) == 2  # one stop for each answer
    first = page.locator("article").first.locator(".t").first
    first.focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#tip")).to_contain_text("entropy")
    expect(page.locator("#tip")).to_contain_text("drafted")
    assert page.locator("article").first.locator(".t").nth(1).evaluate("t => t === document.activeElement")
    page.keyboard.press("Escape")
    expect(page.locator("#tip")).to_be_hidden()


def test_hovering_a_token_shows_its_record(page: Page) -> None:
    page.click("#send")
    _ends(page)
    page.locator("article .t").nth(3).hover()
    assert page.locator("#tip dt").all_inner_texts() == ["step", "token id", "entropy", "mode"]
    assert page.locator("#tip dd").first.inner_text() == "4"
    page.mouse.move(1, 1)
    expect(page.locator("#tip")).to_be_hidden()


def test_what_a_model_writes_is_text_whatever_it_holds(page: Page) -> None:
    said = '<img src=x onerror="document.title=1"> \u202ex\n'
    record = {"token": 5, "text": said, "entropy": None, "mode": "discrete", "<b>": "<i>"}

    def answer(route: Route) -> None:
        choice = {"index": 0, "delta": {"content": said}, "finish_reason": "stop", "szilard": record}
        body = f": ping\n\ndata: {json.dumps({'choices': [choice]})}\n\ndata: [DONE]\n\n"
        route.fulfill(body=body, content_type="text/event-stream")

    page.route("**/v1/chat/completions", answer)
    page.click("#send")
    _ends(page)
    page.locator("article .t").hover()
    assert page.locator("article .text img, #tip i, #tip b").count() == 0
    expect(page.locator("article .text")).to_contain_text("<img src=x")
    expect(page.locator("article .t .code")).to_have_text("U+202E")


def test_nothing_moves_while_an_answer_comes(page: Page) -> None:
    page.evaluate(
        """() => { window.moved = 0; new PerformanceObserver((list) => {
            for (const one of list.getEntries()) window.moved += one.value; }).observe({type: "layout-shift"}); }"""
    )
    page.fill("#max_tokens", "120")
    page.click("#send")
    _ends(page)
    assert page.evaluate("window.moved") < 0.01


def test_a_key_opens_the_server_and_stays_in_the_tab(
    open_page: Callable[..., Page], serve: Serve, tiny: TransformersEngine
) -> None:
    page = open_page(serve(tiny, keys=Keys(["secret"])), ready=False)
    expect(page.get_by_role("alert")).to_contain_text("API key")
    page.get_by_label("API key").fill("secret")
    page.click("#send")
    _ends(page)
    expect(page.locator("#model")).to_have_text("tiny")
    assert page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}])") == '[{},{"szilard-key":"secret"}]'


def test_dark_and_light_follow_the_system_until_one_is_chosen(open_page: Callable[..., Page], address: str) -> None:
    page = open_page(address, color_scheme="dark")
    colour = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(colour)
    page.click("#theme")
    assert page.evaluate(colour) != dark
    page.reload()
    assert page.evaluate(colour) != dark
    page.click("#theme")
    assert page.evaluate(colour) == dark


def test_a_model_without_a_chat_template_continues_the_prompt(open_page: Callable[..., Page], serve: Serve) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = None
    engine = TransformersEngine(tiny_model("llama"), tokenizer, name="tiny")
    page = open_page(serve(engine))
    expect(page.locator("#plain")).to_be_visible()
    expect(page.locator("#chat")).to_be_hidden()
    page.click("#send")
    _ends(page)
    expected = engine.generate("w10 w11 w12 w10 w11", szilard.Greedy(), max_new_tokens=8, raw=True).text.split()
    assert page.locator("article .text").inner_text().replace("·", "").split() == expected


def test_a_model_that_reads_no_images_is_offered_none(page: Page) -> None:
    expect(page.locator("#images")).to_be_hidden()


@pytest.mark.skipif(importlib.util.find_spec("szilard_zoo") is None, reason="the zoo is not installed")
def test_images_are_previewed_removed_and_sent(open_page: Callable[..., Page], serve: Serve, tmp_path: Path) -> None:
    from PIL import Image

    for colour in ("red", "blue"):
        Image.new("RGB", (64, 64), colour).save(tmp_path / f"{colour}.png")
    page = open_page(serve(szilard.load("zoo/tiny-vlm")))
    page.set_input_files("#files", [tmp_path / "red.png", tmp_path / "blue.png"])
    expect(page.locator("#previews img")).to_have_count(2)
    page.get_by_label("Remove red.png").click()
    expect(page.get_by_alt_text("blue.png")).to_be_visible()
    page.fill("#prompt", "is there a red circle ?")
    with page.expect_request("**/v1/chat/completions") as asked:
        page.click("#send")
    parts = asked.value.post_data_json["messages"][0]["content"]
    assert [part["type"] for part in parts] == ["image_url", "text"]
    assert parts[0]["image_url"]["url"].startswith("data:image/png;base64,")
    _ends(page)
    assert page.locator("article .t").count() == 8
