"""The heat map shows every token, orders colours by entropy, and says the same without colour."""

from __future__ import annotations

import math
import re

import pytest
import torch
from rich.cells import cell_len

from szilard.decoding.heatmap import heat_text, to_ansi
from szilard.decoding.recorder import TraceRecorder
from szilard.decoding.trace import Trace

ESCAPE = re.compile(r"\x1b\[[0-9;]*m")


def make(texts: list[str], entropies: list[float], latent: set[int] | None = None, rows: int = 1) -> Trace:
    recorder = TraceRecorder()
    for step, entropy in enumerate(entropies):
        mode = None if latent is None else int(step in latent)
        recorder.add(torch.full((rows,), step), torch.full((rows,), entropy), mode=mode)
    return recorder.finish(lambda ids: "".join(texts[i] for i in ids))


@pytest.fixture
def trace() -> Trace:
    return make(["The", " sky", " is", " blue", "."], [0.0, 4.0, 1.0, 2.0, 0.01], latent={1, 2})


def test_coloured_text_is_the_text(trace: Trace) -> None:
    assert heat_text(trace).plain.startswith("The sky is blue.\n")
    assert ESCAPE.sub("", to_ansi(trace, width=80)).startswith("The sky is blue.")


def test_colours_get_lighter_with_entropy() -> None:
    text = heat_text(make(["x"] * 21, [0.2 * step for step in range(21)]))
    colors = {span.start: span.style.bgcolor.triplet for span in text.spans[:20]}  # type: ignore[union-attr]
    assert 0 not in colors and len(colors) == 20  # a step without entropy is plain
    lightness = [sum(w * c for w, c in zip((2, 7, 1), colors[step], strict=True)) for step in range(1, 21)]
    assert lightness == sorted(lightness) and len(set(lightness)) == 8


def test_letters_stand_out_from_their_background() -> None:
    def luminance(color: object) -> float:
        linear = [(c / 255 / 12.92) if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in color.triplet]  # type: ignore[attr-defined]
        return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    for span in heat_text(make(["x"] * 21, [0.2 * step for step in range(21)])).spans[:20]:
        dark, light = sorted([luminance(span.style.bgcolor), luminance(span.style.color)])  # type: ignore[union-attr]
        assert (light + 0.05) / (dark + 0.05) >= 4.5  # WCAG AA


def test_latent_steps_and_no_others_are_underlined(trace: Trace) -> None:
    text = heat_text(trace)
    marked = {text.plain[span.start : span.end] for span in text.spans if span.style.underline}  # type: ignore[union-attr]
    assert marked == {" sky", " is", "latent step"}
    assert "latent" not in heat_text(make(["a"], [1.0])).plain


def test_without_colour_bars_and_marks_say_the_same(trace: Trace) -> None:
    lines = to_ansi(trace, width=80, color=False).splitlines()
    assert lines[0] == "The sky is blue."
    assert lines[1] == "   ████▂▂▂▄▄▄▄▄"
    assert lines[2] == "   ~~~~~~~"
    assert lines[-1] == "5 steps · mean entropy 1.40 nats · 2 latent (40%) · 2 switches"


@pytest.mark.parametrize("width", [1, 7, 10, 80])
def test_plain_lines_fit_the_width_and_keep_every_token(width: int) -> None:
    texts = ["One", " two", " three", " 日本語", "", "\n", " antidisestablishmentarianism", "e\u0301", "."]
    plain = to_ansi(make(texts, [1.0] * 9), width=width, color=False).split("\n\n")[0]
    lines = [line for line in plain.splitlines() if not set(line) <= set("▁▂▃▄▅▆▇█ ~")]
    assert "".join("".join(lines).split()) == "".join("".join(texts).split()).replace("antidis", "⏎antidis")
    assert all(cell_len(line) <= max(width, 2) for line in plain.splitlines())  # a wide character needs two columns


def test_lines_break_before_words_not_within() -> None:
    plain = to_ansi(make(["one", " two", "fold", " three"], [0.0] * 4), width=9, color=False)
    assert [line.strip() for line in plain.splitlines()[:3]] == ["one", "twofold", "three"]


def test_control_characters_cannot_act_on_the_terminal() -> None:
    trace = make(["\x1b[2J", "\r", "\x9b", "\u202e", "\t", "\n"], [1.0] * 6)
    for shown in (to_ansi(trace, color=False, width=200), ESCAPE.sub("", to_ansi(trace, width=200))):
        assert not set(shown) & set("\x1b\r\x9b\u202e\t")
        assert "⟨U+001B⟩[2J⟨U+000D⟩⟨U+009B⟩⟨U+202E⟩⇥⏎\n" in shown


def test_without_text_the_ids_are_shown() -> None:
    recorder = TraceRecorder()
    recorder.add(torch.tensor([42]), torch.ones(1))
    assert heat_text(recorder.finish()).plain.startswith("⟨42⟩")


def test_every_row_of_a_batch_is_shown() -> None:
    trace = make(["a", "b"], [0.5, 1.0], rows=3)
    for shown in (heat_text(trace).plain, to_ansi(trace, color=False)):
        assert [f"row {row}\nab" in shown for row in range(4)] == [True, True, True, False]


def test_non_finite_entropies_are_drawn() -> None:
    lines = to_ansi(make(["a", "b", "c", "d"], [math.nan, math.inf, -math.inf, 2.0]), color=False).splitlines()
    assert lines[1] == " █ █"
    assert "2.00 nats" in lines[-2]


def test_an_empty_trace_has_a_picture() -> None:
    trace = TraceRecorder().finish()
    assert "0 steps" in to_ansi(trace) and "0 steps" in to_ansi(trace, color=False)


def test_the_maximum_can_be_fixed_to_compare_runs(trace: Trace) -> None:
    assert to_ansi(trace, color=False, max_entropy=8.0).splitlines()[1].strip()[:4] == "▄▄▄▄"


@pytest.mark.parametrize("options", [{"max_entropy": 0.0}, {"max_entropy": math.nan}, {"width": 0}])
@pytest.mark.parametrize("color", [True, False])
def test_a_meaningless_option_is_refused(trace: Trace, options: dict, color: bool) -> None:
    with pytest.raises(ValueError, match="got"):
        to_ansi(trace, color=color, **options)


def test_the_trace_offers_its_picture(trace: Trace) -> None:
    assert trace.to_ansi(width=60, color=False) == to_ansi(trace, width=60, color=False)
