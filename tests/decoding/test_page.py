"""The page shows every token of every run, loads nothing, and cannot be broken out of by what it shows."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from html.parser import HTMLParser

import pytest
import torch

from szilard.decoding.page import Run, render_page
from szilard.decoding.recorder import TraceRecorder
from szilard.decoding.trace import Trace

HOSTILE = [
    "</script><script>alert(1)</script>",
    "<!--",
    "-->",
    "<img src=x onerror=alert(1)>",
    "\"' onmouseover=alert(1) x='",
    "&lt;&amp;",
    "\u202eabc\u2066",
    "\u2028\u2029",
    "\x00\x1b[2J\x7f",
    "שלום مرحبا",
    "👩‍🚀🇯🇵",
    "a\n\n\tb",
    "{{data}} {{body}} \\1 ${x}",
    "]]>",
]
VOID = {"meta", "link", "input", "rect", "line", "path", "circle", "use"}


class Page(HTMLParser):
    """The elements of a page, the text in some of them, and whether they nest."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.stack: list[tuple[str, str]] = []
        self.texts: list[str] = []  # of every element with the class "t" in a "text"
        self.prompts: list[str] = []
        self.scripts: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.elements.append((tag, values))
        name = (values.get("class") or "").split(" ")[0]
        if name == "t" and self.inside("text"):
            self.texts.append("")
        if tag == "pre":
            self.prompts.append("")
        if tag == "script":
            self.scripts.append("")
        if tag not in VOID:
            self.stack.append((tag, name))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.stack.pop()[0] == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.stack and self.stack[-1][0] == "script":
            self.scripts[-1] += data
        elif self.inside("t") and self.inside("text"):
            self.texts[-1] += data
        elif any(tag == "pre" for tag, _ in self.stack):
            self.prompts[-1] += data

    def inside(self, name: str) -> bool:
        return any(n == name for _, n in self.stack)

    def count(self, class_name: str) -> int:
        return sum(class_name in (values.get("class") or "").split() for _, values in self.elements)


def make(texts: list[str], *, latent: set[int] | None = None, rows: int = 1, seed: int = 0) -> Trace:
    generator = torch.Generator().manual_seed(seed)
    recorder = TraceRecorder()
    for step in range(len(texts)):
        columns: dict = {} if latent is None else {"mode": int(step in latent), "reference": 0.5, "anchored": step == 2}
        recorder.add(
            torch.full((rows,), step),
            torch.rand(rows, generator=generator) * 3,
            candidates=(torch.tensor([[step, 0]] * rows), torch.tensor([[0.75, 0.25]] * rows)),
            note=texts[step],
            **columns,
        )
    return recorder.finish(lambda ids: "".join(texts[i] for i in ids))


def shown(text: str) -> str:
    """What the page writes for a text: marks for breaks and tabs, names for hidden characters."""
    text = text.replace("\n", "⏎\n").replace("\t", "⇥\t")
    return re.sub(
        r"[^\S \n\t]|[\x00-\x08\x0e-\x1f\x7f\u202a-\u202e\u2066-\u2069]", lambda m: f"U+{ord(m[0]):04X}", text
    )


@pytest.fixture
def runs() -> list[Run]:
    words = ["The", " sky", " is", " blue", ".\n"]
    return [
        Run("greedy", "Why?", make(words), {"tokens": 5, "tokens/s": 21.25}),
        Run("greedy", "How?", make(words, seed=1)),
        Run("lead", "Why?", make(words, latent={2, 3}, seed=2), {"tokens": 12345}, subtitle="window 128"),
    ]


def test_the_text_is_there_without_scripts(runs: list[Run]) -> None:
    page = Page(render_page(runs, title="Sky"))
    assert "".join(page.texts[:5]) == "The sky is blue.⏎\n"
    assert len(page.texts) == 15 and page.count("run") == 3


def test_runs_of_one_prompt_stand_together_in_order_of_first_appearance(runs: list[Run]) -> None:
    html = render_page(runs, title="Sky")
    assert Page(html).prompts == ["Why?", "How?"]
    order = [html.index(part) for part in (">Why?<", ">greedy<", ">lead<", ">How?<")]
    assert order == sorted(order)


def test_facts_are_shown_as_given(runs: list[Run]) -> None:
    html = render_page(runs, title="Sky")
    assert "<tr><th>tokens/s</th><td>21.25</td></tr>" in html
    assert "<tr><th>tokens</th><td>12,345</td></tr>" in html
    assert "<p>window 128</p>" in html


def test_latent_switched_and_anchored_steps_are_marked(runs: list[Run]) -> None:
    html = render_page([runs[2]], title="Sky")
    page = Page(html)
    assert page.count("latent") == 2 and page.count("stretch") == 1 and page.count("mix") == 2
    assert [v["title"] for _, v in page.elements if v.get("class") == "turn-mark" and "title" in v] == [
        "switch to latent mode",
        "switch to discrete mode",
    ]
    assert page.count("anchor") == 2  # the step and the legend
    assert page.count("reference") == 1 and "[is <small>75%</small> · The <small>25%</small>]" in html


def test_a_plain_run_has_no_marks_and_no_legend_for_them(runs: list[Run]) -> None:
    page = Page(render_page([runs[0]], title="Sky"))
    assert not any(page.count(name) for name in ("latent", "turn-mark", "anchor", "mix", "key", "stretch", "reference"))


def test_colours_carry_the_entropy_in_nats(runs: list[Run]) -> None:
    page = Page(render_page(runs[:1], title="Sky"))
    styles = [v["style"] or "" for t, v in page.elements if t == "span" and (v.get("class") or "").split()[:1] == ["t"]]
    assert [float(style.removeprefix("--e:")) for style in styles] == pytest.approx(runs[0].trace["entropy"], abs=1e-4)


def test_curves_of_all_runs_share_one_scale(runs: list[Run]) -> None:
    labels = re.findall(r'aria-label="Entropy of 5 steps, 0 to ([0-9.]+) nats"', render_page(runs, title="Sky"))
    largest = max(run.trace["entropy"].max() for run in runs)
    assert len(labels) == 3 and len(set(labels)) == 1
    assert largest <= float(labels[0]) <= largest + 0.06


def test_data_for_the_details_is_complete(runs: list[Run]) -> None:
    data = json.loads(Page(render_page(runs, title="Sky")).scripts[0])
    lead = data[1]  # in the order of the page
    assert lead["columns"]["mode"] == ["discrete", "discrete", "latent", "latent", "discrete"]
    assert lead["columns"]["candidates"][2] == [[2, " is", 0.75], [0, "The", 0.25]]
    assert lead["columns"]["entropy"] == pytest.approx(runs[2].trace["entropy"].tolist(), rel=1e-5)
    assert len(lead["heights"]) == 5


def test_the_page_loads_nothing(runs: list[Run]) -> None:
    html = render_page(runs, title="Sky")
    assert not re.search(r"https?:|//[a-z]|@import|url\(", re.sub(r"^\s*//.*|//\s.*$", "", html, flags=re.MULTILINE))
    links = [
        v[name] for _, v in Page(html).elements for name in ("href", "src", "action", "data", "xlink:href") if name in v
    ]
    assert set(links) == {"data:,", "#anchor"}


def test_the_security_policy_allows_exactly_the_script_of_the_page(runs: list[Run]) -> None:
    html = render_page(runs, title="Sky")
    digest = base64.b64encode(hashlib.sha256(Page(html).scripts[1].encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'" in html


@pytest.mark.parametrize("place", ["token", "prompt", "title", "run title", "subtitle", "facts"])
@pytest.mark.parametrize("text", HOSTILE, ids=[f"hostile{i}" for i in range(len(HOSTILE))])
def test_hostile_text_stays_text(text: str, place: str) -> None:
    harmless = "x"

    def page(value: str) -> Page:
        def at(name: str) -> str:
            return value if name == place else harmless

        trace = make(["a", at("token"), "b"], latent={1})
        run = Run(at("run title"), at("prompt"), trace, {at("facts"): at("facts")}, subtitle=at("subtitle"))
        html = render_page([run], title=at("title"))
        html.encode("utf-8")
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f\u2028\u2029\u202a-\u202e\u2066-\u2069]", html.replace("\t", ""))
        return Page(html)

    attacked, quiet = page(text), page(harmless)
    inert = {"mark", "code"}  # the spans that show a break or a hidden character

    def skeleton(page: Page) -> list[tuple[str, tuple[str, ...]]]:
        return [(t, tuple(v)) for t, v in page.elements if not (t == "span" and v.get("class") in inert)]

    assert skeleton(attacked) == skeleton(quiet)
    assert len(attacked.scripts) == 2 and attacked.scripts[1] == quiet.scripts[1]
    assert json.loads(attacked.scripts[0])[0]["columns"]["text"] == ["a", text if place == "token" else "x", "b"]
    assert attacked.texts == ["a", shown(text if place == "token" else "x"), "b"]
    assert attacked.prompts == [shown(text if place == "prompt" else "x")]


def test_newlines_are_a_mark_and_a_break() -> None:
    html = render_page([Run("lead", "a\nb", make(["x\n\n", "y"]))], title="T")
    assert '>x<span class="mark">⏎</span>\n<span class="mark">⏎</span>\n</span>' in html


def test_non_finite_and_missing_values_are_drawn() -> None:
    recorder = TraceRecorder()
    for entropy in (math.nan, math.inf, -math.inf, 2.0, math.nan):
        recorder.add(
            torch.tensor([0]),
            torch.tensor([entropy]),
            mode=1,
            reference=entropy,
            candidates=(torch.tensor([[0]]), torch.tensor([[math.inf]])),
        )
    html = render_page([Run("lead", "", recorder.finish())], title="T")
    data = json.loads(Page(html).scripts[0])[0]
    assert data["heights"] == [None, 100.0, 0.0, 100.0, None]
    assert data["columns"]["entropy"][:3] == ["nan", "inf", "-inf"]
    assert not re.search(r'(d|style)="[^"]*(nan|inf)', html)
    assert Page(html).texts == ["0"] * 5  # without text the ids are shown


def test_tokens_without_text_can_still_be_pointed_at() -> None:
    assert Page(render_page([Run("lead", "", make(["", "a"]))], title="T")).texts == ["·", "a"]


def test_an_empty_trace_is_said_to_be_empty() -> None:
    page = render_page([Run("lead", "Why?", TraceRecorder().finish())], title="T")
    assert "no steps" in page and Page(page).texts == []


def test_every_row_of_a_batch_is_a_run_of_its_own() -> None:
    html = render_page([Run("lead", "Why?", make(["a", "b"], rows=3))], title="T")
    assert [f"<h3>lead · row {row}</h3>" in html for row in range(4)] == [True, True, True, False]
    assert len(json.loads(Page(html).scripts[0])) == 3


def test_a_page_without_runs_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one run"):
        render_page([], title="T")


def test_the_trace_offers_its_page(runs: list[Run]) -> None:
    html = runs[2].trace.to_html(title="Sky", prompt="Why?", method="lead")
    assert "<title>Sky</title>" in html and "<h3>lead</h3>" in html
    assert "<th>latent steps</th><td>2</td>" in html and "<th>mean entropy</th>" in html
