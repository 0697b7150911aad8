"""A trace as a picture: well-formed, with a word for every token, and marks where steps were latent."""

from __future__ import annotations

import xml.etree.ElementTree as xml
from typing import Any

import pyarrow as pa
import pytest

import szilard
from szilard.engines import TransformersEngine
from tests.conftest import tiny_model, tiny_tokenizer

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def engine() -> Any:
    return TransformersEngine(tiny_model("llama"), tiny_tokenizer(), name="tiny")


def test_every_token_is_written_and_latent_steps_are_marked(engine: Any) -> None:
    trace = engine.generate("w10 w11", szilard.Lead(window=3), max_new_tokens=20, trace=True).trace
    picture = xml.fromstring(trace.to_svg(title="lead <&>", columns=40))
    words = "".join(node.text or "" for node in picture.iter(f"{SVG}text"))
    assert "lead <&>" in words and all((step.text or "").strip() in words for step in trace)
    latent = sum(step.mode == "latent" for step in trace)
    shaded = [node for node in picture.iter(f"{SVG}rect") if node.get("fill") == "#c9c3e6"]
    assert latent and len(shaded) == latent
    (curve,) = picture.iter(f"{SVG}polyline")
    assert len(str(curve.get("points")).split()) == len(trace)


def test_what_cannot_be_drawn_is_told(engine: Any) -> None:
    trace = engine.generate("w10", max_new_tokens=4, trace=True).trace
    table = trace.to_arrow()
    second = table.set_column(0, "row", pa.array([1] * len(table), table["row"].type))
    with pytest.raises(ValueError, match="one row"):
        szilard.Trace(pa.concat_tables([table, second])).to_svg()
    with pytest.raises(ValueError, match="too narrow"):
        trace.to_svg(columns=4)
