"""The page of canvases has every token of every run with its round, loads nothing, and shows hostile text as text."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re

import pytest
import torch

from szilard.decoding.page import Run
from szilard.decoding.recorder import TraceRecorder
from szilard.decoding.trace import Trace
from szilard.diffusion.canvas_page import has_rounds, render_canvas_page, rounds_at_least
from tests.decoding.test_page import HOSTILE, Page, make, shown


class CanvasPage(Page):
    """Tokens are those of a canvas."""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag != "wbr":  # where a line may break
            super().handle_starttag(tag, attrs)

    def inside(self, name: str) -> bool:
        return super().inside("canvas" if name == "text" else name)


def canvas(texts: list[str], rounds: list[int], probabilities: list[float] | None = None, rows: int = 1) -> Trace:
    recorder = TraceRecorder()
    for place, number in enumerate(rounds):
        recorder.add(
            torch.full((rows,), place),
            torch.full((rows,), 0.25 * (place + 1)),
            mode=0,
            round=torch.full((rows,), number),
            probability=torch.full((rows,), 0.5 if probabilities is None else probabilities[place]).double(),
        )
    return recorder.finish(lambda ids: "".join(texts[i] for i in ids))


WORDS = ["The", " sky", " is", " blue", ".\n"]


@pytest.fixture
def runs() -> list[Run]:
    return [
        Run("one by one", "Why?", canvas(WORDS, [5, 1, 3, 2, 4]), {"rounds": 5, "tokens/s": 21.25}, subtitle="tiny"),
        Run("threshold", "Why?", canvas(WORDS, [2, 1, 1, 1, 2])),
        Run("template", "How?", canvas(WORDS, [0, 0, 1, 1, 0])),
    ]


def data_of(html: str) -> dict:
    return json.loads(CanvasPage(html).scripts[0])


def test_the_filled_canvas_is_there_without_scripts(runs: list[Run]) -> None:
    page = CanvasPage(render_canvas_page(runs, title="Sky"))
    assert "".join(page.texts[:5]) == "The sky is blue.⏎\n"
    assert len(page.texts) == 15 and page.count("run") == 3 and page.stack == []
    assert page.count("open") == 1  # the legend's: nothing is hidden where no script can show it again
    assert page.count("script-only") == 2  # the controls, and what the footer says of them


def test_every_token_has_its_round_entropy_and_probability(runs: list[Run]) -> None:
    data = data_of(render_canvas_page(runs, title="Sky"))
    assert data["rounds"] == 5
    first = data["runs"][0]
    assert first["round"] == [5, 1, 3, 2, 4] and first["rounds"] == 5
    assert first["entropy"] == [0.25, 0.5, 0.75, 1.0, 1.25] and first["probability"] == [0.5] * 5
    assert first["text"] == WORDS and first["token"] == [0, 1, 2, 3, 4]


def test_colours_carry_the_entropy_on_one_scale(runs: list[Run]) -> None:
    html = render_canvas_page(runs, title="Sky")
    spans = [values for tag, values in CanvasPage(html).elements if tag == "span"]
    styles = [values["style"] for values in spans if (values.get("style") or "").startswith("--e")]
    assert styles[:5] == ["--e:0.25", "--e:0.5", "--e:0.75", "--e:1", "--e:1.25"]
    assert html.count("--max: ") == 1 and "--max: 1.25;" in html


def test_what_a_template_gave_is_marked_and_not_counted(runs: list[Run]) -> None:
    page = CanvasPage(render_canvas_page(runs, title="Sky"))
    assert page.count("given") == 3 + 1  # the legend's
    assert CanvasPage(render_canvas_page(runs[:2], title="Sky")).count("given") == 0
    assert "<b>1 round</b>, 2.00 tokens per round, 2.00 bits per round" in render_canvas_page(runs[2:], title="Sky")


def test_rounds_bits_and_the_bound_stand_under_every_run(runs: list[Run]) -> None:
    html = render_canvas_page(runs, title="Sky")
    assert "<b>5 rounds</b>, 1.00 tokens per round, 1.00 bits per round" in html
    assert "<b>2 rounds</b>, 2.50 tokens per round, 2.50 bits per round" in html
    assert "at least 2 rounds: 5.0 bits, at most 3.0 in one" in html


def test_bars_of_all_runs_share_both_axes(runs: list[Run]) -> None:
    html = render_canvas_page(runs[:2], title="Sky")
    assert html.count('viewBox="0 0 5 100"') == 2 and html.count("bits per round, 0 to 3.0") == 2
    bars = re.findall(r'<rect x="([0-9.]+)" y="[0-9.]+" width="0.86" height="([0-9.]+)"', html)
    assert [float(height) for _, height in bars] == [33.3] * 5 + [100.0, 66.7]
    assert [int(float(x)) for x, _ in bars] == [0, 1, 2, 3, 4, 0, 1]


def test_a_token_of_probability_zero_has_no_bound() -> None:
    html = render_canvas_page([Run("a", "", canvas(WORDS, [1, 1, 2, 2, 3], [0.5, 0.0, 0.5, 0.5, 0.5]))], title="T")
    assert "no bound: a token had probability 0" in html and html.count("class=endless") == 1
    assert not re.search(r"\b(nan|inf)\b", html.lower().partition("<script")[0].partition("<main>")[2])
    assert rounds_at_least([math.inf, 1.0]) is None and rounds_at_least([]) == 0 and rounds_at_least([3.0, 2.0]) == 2


def test_certain_tokens_alone_are_drawn() -> None:
    html = render_canvas_page([Run("a", "", canvas(WORDS, [1, 1, 2, 2, 3], [1.0] * 5))], title="T")
    assert "0.00 bits per round" in html and html.count("<rect") == 3


def test_the_controls_have_names_and_are_buttons(runs: list[Run]) -> None:
    page = CanvasPage(render_canvas_page(runs, title="Sky"))
    buttons = [v for t, v in page.elements if t == "button"]
    assert len(buttons) == 5 and all(v["type"] == "button" and v["title"] for v in buttons)
    (slider,) = [v for t, v in page.elements if t == "input"]
    assert slider["type"] == "range" and slider["max"] == slider["value"] == "5" and slider["aria-label"]
    html = render_canvas_page(runs, title="Sky")
    assert "prefers-reduced-motion: no-preference" in html and "prefers-color-scheme: dark" in html


def test_the_page_loads_nothing_and_allows_its_own_script_only(runs: list[Run]) -> None:
    html = render_canvas_page(runs, title="Sky")
    assert not re.search(r"https?:|@import|url\(|fetch\(|XMLHttp", html)
    page = CanvasPage(html)
    assert {v[n] for _, v in page.elements for n in ("href", "src", "action") if n in v} == {"data:,"}
    digest = base64.b64encode(hashlib.sha256(page.scripts[1].encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'" in html


@pytest.mark.parametrize("place", ["token", "prompt", "title", "run title", "subtitle", "facts"])
@pytest.mark.parametrize("text", HOSTILE, ids=[f"hostile{i}" for i in range(len(HOSTILE))])
def test_hostile_text_stays_text(text: str, place: str) -> None:
    def page(value: str) -> CanvasPage:
        def at(name: str) -> str:
            return value if name == place else "x"

        trace = canvas(["a", at("token"), "b"], [2, 1, 0])
        run = Run(at("run title"), at("prompt"), trace, {at("facts"): at("facts")}, subtitle=at("subtitle"))
        html = render_canvas_page([run], title=at("title"))
        html.encode("utf-8")
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f\u2028\u2029\u202a-\u202e\u2066-\u2069]", html.replace("\t", ""))
        return CanvasPage(html)

    def skeleton(page: CanvasPage) -> list[tuple[str, tuple[str, ...]]]:
        return [(t, tuple(v)) for t, v in page.elements if not (t == "span" and v.get("class") in {"mark", "code"})]

    attacked, quiet = page(text), page("x")
    assert skeleton(attacked) == skeleton(quiet)
    assert len(attacked.scripts) == 2 and attacked.scripts[1] == quiet.scripts[1]
    token = text if place == "token" else "x"
    assert json.loads(attacked.scripts[0])["runs"][0]["text"] == ["a", token, "b"]
    assert attacked.texts == ["a", shown(token), "b"]
    assert attacked.prompts == [shown(text if place == "prompt" else "x")]


def test_every_row_of_a_batch_is_a_canvas_of_its_own() -> None:
    html = render_canvas_page([Run("t", "Why?", canvas(["a", "b"], [1, 2], rows=3))], title="T")
    assert [f"<h3>t · row {row}</h3>" in html for row in range(4)] == [True, True, True, False]
    assert len(data_of(html)["runs"]) == 3


def test_runs_without_rounds_and_no_runs_are_refused() -> None:
    assert not has_rounds(make(["a"]))
    with pytest.raises(ValueError, match="'greedy' has no rounds"):
        render_canvas_page([Run("greedy", "Why?", make(["a"]))], title="T")
    with pytest.raises(ValueError, match="at least one run"):
        render_canvas_page([], title="T")
