"""What a trace promises: nothing recorded is lost, nothing unrecorded is invented, every stored form comes back."""

from __future__ import annotations

import copy
import json
import math
import pickle
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from szilard.decoding import trace_files
from szilard.decoding.recorder import TraceRecorder, token_pieces
from szilard.decoding.trace import Trace, TraceStep

TEXT = 'naïve 日本 👩‍🚀 "<b>" e\u0301 \u202eabc'


def byte_decode(ids: list[int]) -> str:
    """A byte-level vocabulary in its purest form: token i is byte i."""
    return bytes(ids).decode("utf-8", "replace")


def pair_decode(ids: list[int]) -> str:
    """Tokens of two bytes: a token can complete one character and begin the next."""
    return b"".join(i.to_bytes(2, "big") for i in ids).decode("utf-8", "replace")


def sentencepiece_decode(ids: list[int]) -> str:
    """Words with a leading space, and, as SentencePiece does, none at the beginning of the text."""
    return "".join(f" word{i}" for i in ids).removeprefix(" ")


def recorded(steps: int = 6, batch: int = 3) -> TraceRecorder:
    """Rows end at different lengths (row b after steps - b), even steps are latent and have candidates."""
    generator = torch.Generator().manual_seed(0)
    recorder = TraceRecorder()
    for step in range(steps):
        probabilities = torch.rand(batch, 20, generator=generator).softmax(-1)
        weights, ids = probabilities.topk(3)
        columns: dict[str, torch.Tensor | float] = {"switched": torch.tensor([step % 2 == 1] * batch)}
        if step >= 2:
            columns["reference"] = torch.rand(batch, generator=generator)
        recorder.add(
            token=ids[:, 0] + 97,
            entropy=-(probabilities * probabilities.log()).sum(-1),
            mode=torch.full((batch,), (step + 1) % 2),
            candidates=(ids + 97, weights) if step % 2 == 0 else None,
            active=torch.tensor([step < steps - row for row in range(batch)]),
            probability=weights[:, 0],
            **columns,
        )
    return recorder


@pytest.fixture
def trace() -> Trace:
    return recorded().finish(byte_decode)


def hostile() -> Trace:
    """Every value that JSON, Parquet or HTML could trip over."""
    recorder = TraceRecorder()
    texts = ["</script>", "<!--", "\"&'", "\u202e", "\n\t\x00", "👩‍🚀", "\u2028"]
    entropies = [math.nan, math.inf, -math.inf, 0.0, 1e-300, 1.0, 2.0]
    for index, entropy in enumerate(entropies):
        weights = torch.tensor([[0.75, math.inf, math.nan]])
        ids = torch.tensor([[index, 1, 2]])
        recorder.add(torch.tensor([index]), torch.tensor([entropy]), note=texts[index], candidates=(ids, weights))
    return recorder.finish(lambda ids: "".join(texts[i] for i in ids))


# --------------------------------------------------------------------------------------------------- recording


def test_records_are_ordered_by_row_then_step(trace: Trace) -> None:
    assert trace["row"].tolist() == [0] * 6 + [1] * 5 + [2] * 4
    assert trace["step"].tolist() == [*range(6), *range(5), *range(4)]


def test_steps_of_finished_rows_are_dropped(trace: Trace) -> None:
    assert [len(trace.row(row)) for row in range(4)] == [6, 5, 4, 0]
    assert trace.rows == (0, 1, 2)


def test_a_row_that_pauses_keeps_contiguous_steps() -> None:
    recorder = TraceRecorder()
    for step in range(4):
        recorder.add(torch.tensor([step]), torch.zeros(1), active=torch.tensor([step != 1]))
    trace = recorder.finish()
    assert trace["token"].tolist() == [0, 2, 3]
    assert trace["step"].tolist() == [0, 1, 2]


def test_columns_missing_at_a_step_are_null(trace: Trace) -> None:
    row = list(trace.row(0))
    assert row[0].reference is None and row[1].reference is None and isinstance(row[2].reference, float)
    assert np.isnan(trace.row(0)["reference"]).tolist() == [True, True, False, False, False, False]
    assert trace.to_arrow()["reference"].null_count == 6


def test_unrecorded_attributes_read_as_none(trace: Trace) -> None:
    assert trace[0].varentropy is None
    assert trace[0].mode == "latent" and trace[1].mode == "discrete"
    assert not hasattr(trace[0], "__array__")


def test_values_are_those_that_were_recorded() -> None:
    recorder = TraceRecorder()
    entropies = torch.tensor([[0.25, 1.5], [2.0, 0.0]])
    for step in range(2):
        recorder.add(torch.tensor([step, 10 + step]), entropies[step], probability=torch.tensor([0.5, 0.125]).half())
    trace = recorder.finish()
    assert trace["token"].tolist() == [0, 1, 10, 11]
    assert trace["entropy"].tolist() == [0.25, 2.0, 1.5, 0.0]
    assert trace["probability"].tolist() == [0.5, 0.5, 0.125, 0.125]
    assert trace["text"].tolist() == [None] * 4
    assert trace["mode"].tolist() == [None] * 4


def test_a_scalar_column_applies_to_every_row() -> None:
    recorder = TraceRecorder()
    recorder.add(torch.tensor([1, 2]), torch.zeros(2), switched=True, stay=3, reference=0.5, model="small", mode=1)
    recorder.add(torch.tensor([1, 2]), torch.zeros(2), switched=torch.tensor([False, True]), stay=torch.tensor([4, 0]))
    trace = recorder.finish()
    assert trace["switched"].tolist() == [True, False, True, True]
    assert trace["switched"].dtype == bool
    assert trace["stay"].tolist() == [3, 4, 3, 0]
    assert trace["stay"].dtype == np.int64
    assert [step.model for step in trace] == ["small", None, "small", None]
    assert [step.mode for step in trace] == ["latent", None, "latent", None]


def test_candidates_without_weight_are_left_out() -> None:
    recorder = TraceRecorder()
    ids = torch.tensor([[65, 66], [67, 68]])
    recorder.add(torch.tensor([65, 67]), torch.zeros(2), candidates=(ids, torch.tensor([[0.75, 0.25], [0.0, 0.0]])))
    recorder.add(torch.tensor([65, 67]), torch.zeros(2))
    recorder.add(torch.tensor([65, 67]), torch.zeros(2), candidates=(ids[:, :1], torch.tensor([[0.5], [1.0]])))
    first, second = (recorder.finish(byte_decode).row(row) for row in (0, 1))
    assert [step.candidates for step in first] == [((65, "A", 0.75), (66, "B", 0.25)), None, ((65, "A", 0.5),)]
    assert [step.candidates for step in second] == [None, None, ((67, "C", 1.0),)]


def test_recording_costs_no_device_synchronisation() -> None:
    recorder = TraceRecorder()
    with torch.device("meta"):  # meta tensors have no values: reading one raises
        for _ in range(3):
            recorder.add(
                token=torch.zeros(4, dtype=torch.long),
                entropy=torch.zeros(4),
                mode=torch.zeros(4, dtype=torch.long),
                candidates=(torch.zeros(4, 2, dtype=torch.long), torch.zeros(4, 2)),
                active=torch.ones(4, dtype=torch.bool),
            )
    assert len(recorder) == 3


def test_each_candidate_token_is_decoded_once() -> None:
    calls: list[list[int]] = []
    recorder = recorded(steps=12)
    recorder.finish(lambda ids: calls.append(ids) or byte_decode(ids))  # type: ignore[func-returns-value]
    tokens = int(sum(12 - row for row in range(3)))
    assert len(calls) <= 2 * tokens + 20  # at most two per token for the text, one per distinct candidate


def test_a_recorder_can_finish_twice_and_go_on() -> None:
    recorder = recorded()
    before = recorder.finish(byte_decode)
    assert recorder.finish(byte_decode) == before
    recorder.add(torch.tensor([97, 97, 97]), torch.zeros(3))
    assert len(recorder.finish(byte_decode)) == len(before) + 3


def test_an_empty_recorder_gives_an_empty_trace() -> None:
    trace = TraceRecorder().finish(byte_decode)
    assert len(trace) == 0 and list(trace) == [] and trace.rows == ()
    assert trace.columns == ("row", "step", "token", "text", "entropy", "mode", "candidates")
    assert trace.summary() == {
        "steps": 0,
        "mean_entropy": None,
        "latent_steps": 0,
        "latent_share": 0.0,
        "switches": 0,
    }
    assert Trace.from_json(trace.to_json()) == trace


@pytest.mark.parametrize(
    "arguments",
    [
        {"token": torch.zeros(2, 1), "entropy": torch.zeros(2, 1)},
        {"token": torch.zeros(2), "entropy": torch.zeros(3)},
        {"token": torch.zeros(3), "entropy": torch.zeros(3)},
        {"token": torch.zeros(2), "entropy": torch.zeros(2), "reference": torch.zeros(2, 1)},
        {"token": torch.zeros(2), "entropy": torch.zeros(2), "active": torch.ones(1)},
        {"token": torch.zeros(2), "entropy": torch.zeros(2), "candidates": (torch.zeros(2, 3), torch.zeros(2, 4))},
        {"token": torch.zeros(2), "entropy": torch.zeros(2), "step": 3},
    ],
)
def test_a_step_that_does_not_fit_is_refused_at_once(arguments: dict) -> None:
    recorder = TraceRecorder()
    recorder.add(torch.zeros(2), torch.zeros(2))
    with pytest.raises(ValueError):
        recorder.add(**arguments)
    assert len(recorder) == 1


@pytest.mark.parametrize("mode", [2, -1, "dreaming", 0.5])
def test_an_unknown_mode_is_refused(mode: int | str | float) -> None:
    recorder = TraceRecorder()
    recorder.add(torch.zeros(2), torch.zeros(2), mode=mode)
    with pytest.raises(ValueError, match="latent"):
        recorder.finish()


# ---------------------------------------------------------------------------------------------------- text pieces


@pytest.mark.parametrize(
    ("ids", "decode"),
    [
        (list(TEXT.encode()), byte_decode),
        (
            [int.from_bytes(TEXT.encode()[i : i + 2], "big") for i in range(0, len(TEXT.encode()) // 2 * 2, 2)],
            pair_decode,
        ),
        (list(range(9)), sentencepiece_decode),
        (list("日本".encode()[:-1]), byte_decode),  # the text ends within a character
        ([0x80] * 3 + list(b"ab") + [0xFF] * 2 + list(b"c"), byte_decode),  # bytes that never become a character
        ([0x80] * 40, byte_decode),
        ([], byte_decode),
    ],
    ids=["bytes", "byte-pairs", "sentencepiece", "cut", "garbage", "only-garbage", "empty"],
)
def test_pieces_joined_are_the_decoded_text(ids: list[int], decode: Callable[[list[int]], str]) -> None:
    pieces = token_pieces(ids, decode)
    assert len(pieces) == len(ids)
    assert "".join(pieces) == decode(ids)


def test_the_token_that_completes_a_character_carries_it() -> None:
    assert token_pieces(list("aé日👩b".encode()), byte_decode) == [
        *("a", "", "é", "", "", "日", "", "", "", "👩", "b"),
    ]


def test_tokens_that_decode_to_nothing_have_empty_pieces() -> None:
    def decode(ids: list[int]) -> str:  # id 0 is a special token that the tokenizer skips
        return byte_decode([i for i in ids if i])

    ids = [0, 97, 0, 0, 98, *[0] * 30, 99, 0]
    assert token_pieces(ids, decode) == [chr(i) if i else "" for i in ids]


def test_decoding_stays_linear_in_the_length() -> None:
    lengths: list[int] = []
    token_pieces([0x80, 97] * 500, lambda ids: lengths.append(len(ids)) or byte_decode(ids))  # type: ignore[func-returns-value]
    assert max(lengths) <= 20


def test_lone_surrogates_of_a_decoder_do_not_break_the_trace() -> None:
    recorder = TraceRecorder()
    recorder.add(torch.tensor([1]), torch.zeros(1), candidates=(torch.tensor([[1]]), torch.tensor([[1.0]])))
    assert recorder.finish(lambda ids: "\ud800")["text"].tolist() == ["?"]


# --------------------------------------------------------------------------------------------------------- reading


def test_a_trace_is_immutable(trace: Trace) -> None:
    with pytest.raises(AttributeError, match="immutable"):
        trace._table = None
    with pytest.raises(ValueError, match="read-only"):
        trace["entropy"][0] = 1.0


def test_rows_partition_the_trace(trace: Trace) -> None:
    parts = pa.concat_tables([trace.row(row).to_arrow() for row in trace.rows])
    assert Trace(parts) == trace


def test_indexing_agrees_with_iterating(trace: Trace) -> None:
    steps = list(trace)
    assert trace[0] == steps[0] and trace[-1] == steps[-1]
    assert isinstance(trace[3], TraceStep) and trace[3].entropy == trace["entropy"][3]
    with pytest.raises(IndexError, match="15 steps"):
        trace[15]
    with pytest.raises(KeyError, match="entropy"):
        trace["entropi"]


def test_summary_counts_steps_and_modes(trace: Trace) -> None:
    summary = trace.row(0).summary()
    assert summary["steps"] == 6 and summary["latent_steps"] == 3 and summary["latent_share"] == 0.5
    assert summary["switches"] == 3  # as recorded
    assert summary["mean_entropy"] == pytest.approx(trace.row(0)["entropy"].mean())


def test_switches_are_counted_from_the_modes_of_each_row_when_not_recorded() -> None:
    recorder = TraceRecorder()
    for modes in ([1, 0], [0, 0], [1, 0], [1, 0]):
        recorder.add(torch.tensor([0, 0]), torch.zeros(2), mode=torch.tensor(modes))
    trace = recorder.finish()
    assert trace.row(0).summary()["switches"] == 2
    assert trace.summary()["switches"] == 2  # the boundary between two rows is not a switch


def test_repr_is_short(trace: Trace) -> None:
    assert repr(trace) == "Trace(15 steps in 3 rows, 8 latent)"
    assert "candidates" not in repr(trace[1]) and "text=" in repr(trace[1])


# --------------------------------------------------------------------------------------------------------- storing


@pytest.mark.parametrize("make", [lambda: recorded().finish(byte_decode), lambda: recorded().finish(), hostile])
def test_trace_survives_a_json_round_trip(make: Callable[[], Trace]) -> None:
    trace = make()
    again = Trace.from_json(trace.to_json())
    assert again == trace
    assert again.to_arrow().schema == trace.to_arrow().schema


def test_json_with_nan_and_infinity_is_valid_json() -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    trace = hostile()
    document = json.loads(trace.to_json(), parse_constant=refuse)
    assert [record["entropy"] for record in document["records"][:4]] == ["NaN", "Infinity", "-Infinity", 0.0]
    assert document["version"] == 1
    assert Trace.from_json(trace.to_json())["entropy"][1:3].tolist() == [math.inf, -math.inf]


@pytest.mark.parametrize("suffix", [".json", ".parquet"])
@pytest.mark.parametrize("make", [lambda: recorded().finish(byte_decode), hostile, lambda: TraceRecorder().finish()])
def test_a_saved_trace_loads_unchanged(make: Callable[[], Trace], suffix: str, tmp_path: Path) -> None:
    trace = make()
    path = trace.save(tmp_path / f"run{suffix}")
    assert Trace.load(path) == trace
    assert [file.name for file in tmp_path.iterdir()] == [f"run{suffix}"]  # no temporary file left


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, trace: Trace, monkeypatch: pytest.MonkeyPatch) -> None:
    path = trace.save(tmp_path / "run.json")
    monkeypatch.setattr(trace_files, "to_json", lambda table: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        trace.save(path)
    monkeypatch.undo()
    assert Trace.load(path) == trace
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("action", ["save", "load"])
def test_an_unknown_suffix_is_refused_with_the_known_ones(action: str, tmp_path: Path, trace: Trace) -> None:
    with pytest.raises(ValueError, match=r"\.json or \.parquet"):
        trace.save(tmp_path / "run.csv") if action == "save" else Trace.load(tmp_path / "run.csv")


@pytest.mark.parametrize("suffix", [".json", ".parquet"])
@pytest.mark.parametrize(
    "damage",
    [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"\xff\xfe" + b[3:], lambda b: b"{}"],
    ids=["cut", "empty", "overwritten", "replaced"],
)
def test_a_corrupt_file_is_refused_in_one_sentence(
    damage: Callable[[bytes], bytes], suffix: str, tmp_path: Path, trace: Trace
) -> None:
    path = trace.save(tmp_path / f"run{suffix}")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"Cannot read .* as a trace") as raised:
        Trace.load(path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "[" * 100_000,
        '{"format": "szilard.trace"}',
        '{"format": "szilard.trace", "version": 99, "columns": {}, "records": []}',
        '{"format": "szilard.trace", "version": 1, "columns": {}, "records": []}',
        '{"format": "szilard.trace", "version": 1, "columns": {"row": "int7"}, "records": []}',
        '{"format": "szilard.trace", "version": 1, "columns": {"row": "int64"}, "records": [3]}',
        '{"format": "szilard.trace", "version": 1, "columns": {"entropy": "float64"}, "records": [{"entropy": "x"}]}',
        '{"format": "szilard.trace", "version": 1, "columns": {"row": "int64"}, "records": [{"row": "x"}]}',
    ],
)
def test_json_that_is_no_trace_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="trace"):
        Trace.from_json(text)


def test_a_parquet_file_of_something_else_is_refused(tmp_path: Path) -> None:
    pa.parquet.write_table(pa.table({"x": [1]}), tmp_path / "x.parquet")
    with pytest.raises(ValueError, match="version is absent"):
        Trace.load(tmp_path / "x.parquet")


def test_a_missing_file_is_a_missing_file(tmp_path: Path) -> None:
    for suffix in (".json", ".parquet"):
        with pytest.raises(FileNotFoundError):
            Trace.load(tmp_path / f"none{suffix}")


def test_a_trace_can_be_pickled_and_copied(trace: Trace) -> None:
    assert pickle.loads(pickle.dumps(trace)) == trace
    assert copy.deepcopy(trace) == trace
    assert copy.copy(trace[0]) == trace[0] == pickle.loads(pickle.dumps(trace[0]))


def test_pandas_sees_one_record_per_step(trace: Trace) -> None:
    pandas = pytest.importorskip("pandas")
    frame = trace.to_pandas()
    assert isinstance(frame, pandas.DataFrame) and len(frame) == len(trace)
    assert tuple(frame.columns) == trace.columns
    assert frame.groupby("row")["entropy"].mean()[1] == pytest.approx(trace.row(1).summary()["mean_entropy"])


def test_without_pandas_the_sentence_says_what_to_install(trace: Trace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ModuleNotFoundError, match="pip install pandas"):
        trace.to_pandas()
