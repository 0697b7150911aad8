"""The page about a compressed context."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from szilard.compression.comprexit.diagnostics import plan_rank, slot_rank
from szilard.compression.comprexit.method import ComprExIT
from szilard.compression.comprexit.page import render_page


@pytest.fixture
def soft(engine):
    method = ComprExIT.from_causal_lm(engine, window=8, gate_width=8, metric_width=8, unit_states=True)
    return method.compress([" ".join(f"w{7 + index}" for index in range(21))], engine=engine)[0]


def test_the_page_shows_every_token_and_both_maps_of_every_window(engine, soft) -> None:
    page = render_page(soft, engine.tokenizer, title="<b>mine</b>")
    assert "<b>mine" not in page and "{{" not in page and "<script" not in page
    assert page.count("<li ") == 21 and page.count("<img ") == 6
    assert "Tokens 17 to 21, slots 5 to 6" in page and ">w27</li>" in page
    image = pytest.importorskip("PIL.Image")
    pictures = [
        np.asarray(image.open(io.BytesIO(base64.b64decode(data))))
        for data in re.findall(r"data:image/png;base64,([^\"]+)", page)
    ]
    assert [picture.shape for picture in pictures] == [(8, 4, 4), (8, 2, 4)] * 2 + [(5, 4, 4), (5, 2, 4)]
    gates = soft.trace["gates"]
    drawn = np.concatenate([picture[..., 3] for picture in pictures[::2]])
    np.testing.assert_allclose(drawn / 255, (gates / gates.max()).numpy(), atol=0.003)


def test_a_soft_prompt_without_plans_is_refused(engine, soft) -> None:
    with pytest.raises(ValueError, match="has no gates, plan in its trace"):
        trace = {name: value for name, value in soft.trace.items() if name not in ("gates", "plan")}
        render_page(replace(soft, trace=trace), engine.tokenizer)


def test_ranks_count_the_directions_that_are_used() -> None:
    same, own = torch.full((8, 4), 1 / 32), torch.eye(4).repeat_interleave(2, 0) / 8
    assert plan_rank(torch.stack([same, own, torch.zeros(8, 4)])).tolist() == pytest.approx([1, 4, 1])
    vectors = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(0))).Q
    assert slot_rank(vectors[:5]).item() == pytest.approx(5)
    sizes = torch.tensor([4.0, 2.0, 1.0, 1.0]) / 8
    expected = torch.special.entr(sizes).sum().exp().item()
    assert slot_rank(vectors[:4] * sizes[:, None]).item() == pytest.approx(expected)
