"""Selective decoding: streams are cut where their meaning changes."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from szilard.representation.vl_jepa.cider import cider
from szilard.representation.vl_jepa.segments import (
    METHODS,
    OnlineSegmenter,
    Segment,
    merging_costs,
    segment_stream,
    smoothed,
)
from szilard.representation.vl_jepa.segments_picture import picture
from szilard.representation.vl_jepa.selective import Decoded, SelectiveDecoder, matched, points

LENGTHS = [5, 9, 4, 12, 7, 6]
STARTS = [0, 5, 14, 18, 30, 37]
SETTINGS = {"online": {"threshold": 10.0, "window": 3}, "cosine": {"threshold": 0.6}}


def meanings() -> torch.Tensor:
    return torch.randn(len(LENGTHS), 16, generator=torch.Generator().manual_seed(0))


def pieces(noise: float = 0.0) -> torch.Tensor:
    stream = torch.cat([row.repeat(length, 1) for row, length in zip(meanings(), LENGTHS, strict=True)])
    return stream + noise * torch.randn(stream.shape, generator=torch.Generator().manual_seed(1))


class Nearest:
    """Decodes an embedding to the number of the nearest meaning."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def decode(self, embeddings: torch.Tensor) -> list[str]:
        self.calls.append(len(embeddings))
        return [str(int(place)) for place in torch.cdist(embeddings, meanings()).argmin(1)]


@pytest.mark.parametrize("method", ["ward", "online", "cosine"])
@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_the_boundaries_of_a_stream_in_pieces_are_found(method: str, noise: float) -> None:
    found = segment_stream(pieces(noise), method=method, **SETTINGS.get(method, {"n_segments": 6}))
    assert [one.start for one in found] == STARTS


def test_every_piece_is_decoded_once_in_one_call() -> None:
    decoder = Nearest()
    decoded = SelectiveDecoder(decoder).run(pieces(0.2), n_segments=6)
    assert [one.text for one in decoded] == list("012345") and decoder.calls == [6]


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 30), st.integers(1, 40), st.sampled_from(METHODS), st.integers(0, 99))
def test_segments_are_contiguous_and_cover_the_stream(length: int, count: int, method: str, seed: int) -> None:
    stream = torch.randn(length, 4, generator=torch.Generator().manual_seed(seed))
    found = segment_stream(stream, method=method, **SETTINGS.get(method, {"n_segments": count, "seed": seed}))
    assert found[0].start == 0 and found[-1].end == length
    assert all(one.end == other.start for one, other in itertools.pairwise(found))
    assert all(len(one) > 0 for one in found)
    if method not in SETTINGS:
        assert len(found) == min(count, length)


def test_ward_cuts_as_scikit_learns_clustering_with_a_chain() -> None:
    from scipy.sparse import diags
    from sklearn.cluster import AgglomerativeClustering

    stream = pieces(1.5)
    chain = diags([1.0, 1.0], [-1, 1], shape=(len(stream), len(stream)))
    for count in (2, 5, 11):
        labels = AgglomerativeClustering(n_clusters=count, connectivity=chain).fit_predict(stream.double().numpy())
        theirs = [0] + [place for place in range(1, len(stream)) if labels[place] != labels[place - 1]]
        assert [one.start for one in segment_stream(stream, n_segments=count)] == theirs


def test_merging_costs_of_clear_pieces_never_fall_and_all_add_up_to_the_variance() -> None:
    stream = pieces(1.0)
    costs = merging_costs(stream).double().square() / 2
    variance = (stream - stream.mean(0)).double().square().sum()
    assert float(costs.sum()) == pytest.approx(float(variance), rel=1e-5)
    clear = merging_costs(pieces())
    assert bool((clear[1:] >= clear[:-1] - 1e-5)[: -len(LENGTHS)].all())


def test_fewer_segments_never_lie_closer_to_their_means() -> None:
    stream = pieces(1.0)

    def within(count: int) -> float:
        return sum(
            float((stream[one.start : one.end] - stream[one.start : one.end].mean(0)).square().sum())
            for one in segment_stream(stream, n_segments=count)
        )

    values = [within(count) for count in range(1, len(stream) + 1)]
    assert all(more <= fewer + 1e-4 for fewer, more in itertools.pairwise(values)) and values[-1] == 0


@pytest.mark.parametrize("pool", [True, False])
def test_as_many_segments_as_windows_are_uniform_decoding_of_all(pool: bool) -> None:
    stream = pieces(0.5)
    all_of_them = [
        SelectiveDecoder(Nearest(), method, pool).run(stream, n_segments=len(stream)) for method in ("ward", "uniform")
    ]
    assert all_of_them[0] == all_of_them[1] and len(all_of_them[0]) == len(stream)
    torch.testing.assert_close(points(stream, segment_stream(stream, n_segments=999), pool=pool), stream)


def test_one_segment_is_decoded_once() -> None:
    assert len(SelectiveDecoder(Nearest()).run(pieces(), n_segments=1)) == 1
    assert segment_stream(torch.ones(1, 3), n_segments=1) == [Segment(0, 1)]
    assert segment_stream(torch.ones(1, 3), method="online", threshold=1.0) == [Segment(0, 1)]


def test_the_middle_is_rounded_down() -> None:
    assert [Segment(2, end).middle for end in (3, 4, 5, 6)] == [2, 2, 3, 3]


def test_the_online_rule_takes_windows_one_by_one_and_sees_little_future() -> None:
    segmenter = OnlineSegmenter(10.0, window=3)
    ended = {}
    for moment, row in enumerate(pieces(0.2)):
        if (found := segmenter.push(row)) is not None:
            ended[found.end] = moment
    last = segmenter.finish()
    assert sorted(ended) == STARTS[1:] and last == Segment(37, 43)
    assert all(moment - end < 2 * 3 for end, moment in ended.items())
    assert segmenter.seen == 0  # and it begins anew


def test_a_short_disturbance_is_no_segment_of_the_online_rule() -> None:
    stream = torch.zeros(30, 4)
    stream[12] = 9.0
    assert segment_stream(stream, method="online", threshold=100.0, window=4) == [Segment(0, 30)]
    stream[12:] = 9.0
    assert segment_stream(stream, method="online", threshold=100.0, window=4) == [Segment(0, 12), Segment(12, 30)]


def test_smoothing_averages_neighbours_and_fewer_at_the_ends() -> None:
    assert smoothed(torch.tensor([[0.0], [3.0], [6.0], [0.0]]), 3).squeeze(1).tolist() == [1.5, 3.0, 3.0, 3.0]


def test_pooled_points_keep_the_length_of_embeddings() -> None:
    stream = functional.normalize(pieces(1.0), dim=1)
    pooled = points(stream, segment_stream(stream, n_segments=6), pool=True)
    torch.testing.assert_close(pooled.norm(dim=1), torch.ones(6))


def test_annotations_are_matched_with_what_is_nearest_in_time() -> None:
    decoded = [Decoded(1.0, "a", Segment(0, 2)), Decoded(5.0, "b", Segment(2, 8))]
    assert matched([(0.0, "x"), (3.0, "y"), (3.1, "z")], decoded) == [("a", "x"), ("a", "y"), ("b", "z")]


def test_a_rate_is_segments_per_second() -> None:
    assert len(segment_stream(torch.randn(40, 3), rate=0.5, fps=2.0)) == 10


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, "give n_segments, or rate"),
        ({"n_segments": 3, "rate": 1.0}, "give n_segments, or rate"),
        ({"rate": 1.0}, "rate needs fps"),
        ({"n_segments": 0}, "n_segments"),
        ({"method": "online"}, "needs a threshold"),
        ({"method": "cosine", "threshold": 2.0}, "threshold"),
        ({"method": "cosine", "threshold": 0.5, "n_segments": 3}, "finds how many"),
        ({"threshold": 0.5, "n_segments": 3}, "has no threshold"),
        ({"method": "wards", "n_segments": 3}, "method"),
        ({"n_segments": 3, "smooth": 2}, "smooth must be odd"),
    ],
)
def test_settings_that_do_not_fit_are_said(given: dict[str, float], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        segment_stream(torch.randn(8, 3), **given)  # type: ignore[arg-type]


@pytest.mark.parametrize("stream", [torch.zeros(0, 3), torch.zeros(3), torch.tensor([[math.nan, 1.0]])])
def test_what_is_no_stream_is_said(stream: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="stream must be"):
        segment_stream(stream, n_segments=1)


def test_times_must_be_of_the_windows() -> None:
    with pytest.raises(ValueError, match="43 windows and 2 times"):
        SelectiveDecoder(Nearest()).run(pieces(), [1.0, 2.0], n_segments=2)


def test_a_caption_that_is_its_reference_scores_ten_and_a_foreign_one_nothing() -> None:
    said = [["a red heart moves to the left"], ["a blue triangle stands still in the corner"], ["two green shapes"]]
    mean, scores = cider([own[0] for own in said], said)
    assert scores[:2] == pytest.approx([10.0, 10.0]) and mean == pytest.approx(sum(scores) / 3)
    assert cider(["nothing of it at all"] * 3, said)[0] == 0


def test_rare_words_count_more_than_common_ones_and_length_costs() -> None:
    said = [["a red heart"], ["a blue heart"], ["a green corner"], ["a red corner"]]
    rare = cider(["blue"], [["a blue heart"]])[0]
    assert rare == 0  # one picture has no rare words
    common, special = (cider(["x", text, "x", "x"], said)[1][1] for text in ("a heart", "a blue"))
    assert special > common
    plain, long = (cider([text, "x", "x", "x"], said)[1][0] for text in ("a red heart", "a red heart " + "x " * 9))
    assert long < plain


@pytest.mark.parametrize(("candidates", "references"), [([], []), (["a"], []), (["a"], [[]])])
def test_captions_without_references_are_said(candidates: list[str], references: list[list[str]]) -> None:
    with pytest.raises(ValueError, match="reference"):
        cider(candidates, references)


def test_the_picture_shows_every_segment_and_escapes_its_text() -> None:
    stream = pieces(0.2)
    segments = segment_stream(stream, n_segments=6)
    drawn = picture(stream, segments, texts=["<b>"] * 6, changes=STARTS[1:], title="clip")
    assert drawn.count('class="segment"') == 6 and "&lt;b&gt;" in drawn and drawn.count('class="change"') == 5
    with pytest.raises(ValueError, match="6 segments and 1 texts"):
        picture(stream, segments, texts=["one"])
