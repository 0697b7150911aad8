"""docs/performance.md from what lies under results/: ratios against peers, and start-up.

python benchmarks/performance_page.py
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markdown_table import table
from results_store import Store

Record = dict[str, Any]
PAGE = Path(__file__).parent.parent / "docs" / "performance.md"
HEAD = """# Performance

How fast szilard is beside what one would use without it. Every ratio is of two runs that took turns in one process or on
one machine within one command; above 1 szilard is the faster one. Machines had two CPU cores and no GPU, and were not all
of one kind: ratios travel, seconds do not. Written by `make performance` from `results/`.

"""
COMPILED = """
## Compiled steps, weights in fewer bits

```python
engine = szilard.load("HuggingFaceTB/SmolLM2-135M-Instruct", compile=True, quantize="int8")
```

`compile=True` runs every step behind the prompt (a token, a draft, a mixture of embeddings; one row or many) through
`torch.compile`; the cache, its rewinds, forks and joined rows stay as they are. Methods that change the model while they
run (cache and attention methods, lexical units, Hidden Transfer) and calls that ask for every layer's attention run as
without. `quantize` lets torchao put the weights of linear layers into eight bits (a scale per row) or four (a scale and
zero point per 32); the first needs a quarter of float32's memory, the second an eighth. The peer is transformers' own
eager loop in float32. "same" compares with the same weights, not compiled.

"""
READING = """
A step of one row reads every weight once, so what limits it on a CPU is memory: 538 MB in float32 at the 19 GB/s of the
machine that measured this are 28 ms, and eager PyTorch needs 37. Compiling alone can gain no more than that difference;
fewer bits move the limit, at 0.006 (int8) and 0.048 nats (int4). Compiled float32 wrote the tokens of the eager loop in
every answer; in bfloat16 the order of sums decides near ties, so that int8 and int4 write another text when compiled, from the
same weights. Rows of a batch share the reading of the weights, and arithmetic counts instead: at eight rows on two cores compiling
is a loss (0.7 times the eager loop in float32), and int8 or int4 without it are the fastest. Compile for one row, or measure. Prompts of more than 24 tokens are
multiplied in bfloat16 under int8; under int4 they go through PyTorch's four-bit kernel, which is slower than float32 for
long prompts. On a GPU every shape becomes a CUDA graph; that path could not be run on the machines that were at hand.
"""


@dataclass(frozen=True)
class Line:
    """A row of the first table.

    Attributes:
        what, peer: compared.
        setting: under which circumstances.
        ratio: above 1: szilard is faster.
        command: that measures it.
    """

    what: str
    peer: str
    setting: str
    ratio: float | None
    command: str

    def cells(self) -> list[str]:
        """Of the table."""
        return [
            self.what,
            self.peer,
            self.setting,
            "" if self.ratio is None else f"{self.ratio:.2f}",
            f"`{self.command}`",
        ]


def main() -> None:
    """Write the page."""
    columns = ("what", "peer", "setting", "ratio", "command")
    text = HEAD + table(columns, (line.cells() for line in _lines()))
    if compiled := list(Store("compiled")):
        text += COMPILED + _compiled(compiled) + READING
    if started := list(Store("startup")):
        text += _startup(started)
    PAGE.write_text(text, encoding="utf-8")


def _lines() -> Iterator[Line]:
    small = "SmolLM2-135M, float32"
    for batch in (1, 8):
        for method in ("greedy", "lead"):
            key = {"peer": "transformers generate", "model": "SmolLM2-135M-Instruct", "batch": batch, "method": method}
            yield Line(
                method, "transformers `generate`", f"{small}, batch {batch}", _of("speed", key)["ratio"], "make bench"
            )
    key = {"peer": "llama-cpp-python", "model": "SmolLM2-135M-Instruct", "batch": 1, "method": "szilard greedy"}
    yield Line(
        "greedy, with a trace", "llama-cpp-python's loop", "Q4_1, batch 1", _of("speed", key)["ratio"], "make bench"
    )
    key |= {"method": "szilard greedy, no trace"}
    yield Line("greedy", "llama-cpp-python's loop", "Q4_1, batch 1", _of("speed", key)["ratio"], "make bench")
    ours = _of("serve", {"part": "peer", "server": "szilard"})["tokens_per_s_by_clients"]
    for peer in ("transformers serve", "transformers serve, continuous batching"):
        theirs = _of("serve", {"part": "peer", "server": peer})["tokens_per_s_by_clients"]
        for clients in ("1", "8"):
            ratio = ours[clients] / theirs[clients]
            yield Line(
                "`szilard serve`", f"`{peer}`", f"{small}, {clients} streaming clients", ratio, "make bench-serve"
            )
    for context in (8192, 32768):
        for method in ("full attention, growing cache", "tidal-decode, 1 reselect layer", "quest"):
            found = _of("tidal-latency", {"context": context, "method": method})
            yield Line(
                method,
                "transformers' cache",
                f"{small}, context {context:,}",
                found["speedup"],
                "python benchmarks/tidal_latency.py",
            )
    for inputs in ("one long text", "a list of contexts", "short prompts"):
        key = {"part": "speed", "checkpoint": "tiny-xlm-roberta-large", "inputs": inputs}
        seconds = _of("llmlingua2-peer", key)["processor_seconds"]
        ratio = seconds["peer"] / seconds["llmlingua2"]
        yield Line("LLMLingua-2", "the released package", inputs, ratio, "python benchmarks/llmlingua2_peer.py")
    for batch, answer in ((1, 64), (8, 64)):
        key = {"part": "loop", "method": "top-k-unmask(block_length=None)", "batch": batch, "answer": answer}
        ratio = 1 / _of("diffusion-speed", key)["seconds_over_bare_forwards"]
        yield Line(
            "filling a canvas",
            "its bare forwards",
            f"zoo/tiny-diffusion, batch {batch}",
            ratio,
            "python benchmarks/diffusion_speed.py",
        )
    key = {"part": "window", "method": "window-diffusion", "canvas": 1024}
    yield Line(
        "Window-Diffusion",
        "the whole canvas",
        "canvas of 1,024",
        _of("diffusion-speed", key)["speed"],
        "python benchmarks/diffusion_speed.py",
    )
    yield from _codecs()
    for method, batch in (("medusa", 8), ("chains", 64)):
        key = {"peer": "bare PyTorch loop, training", "method": method, "batch": batch}
        yield Line(
            f"training {method}",
            "a bare PyTorch loop",
            f"batch {batch}",
            _of("speed", key)["ratio"],
            "python benchmarks/training_speed.py",
        )


def _codecs() -> Iterator[Line]:
    size = "768 x 512"
    for codec, peer in (("mean-scale", "compressai-mean-scale"), ("mlicv2", "compressai-cheng2020-anchor")):
        key = {"part": "timing", "codec": peer, "arithmetic": "float32", "size": size}
        theirs, name = _of("codecs", key), peer.removeprefix("compressai-")
        for arithmetic in ("float32", "exact"):  # exact: ours alone, and what `szilard encode` does
            ours = _of("codecs", key | {"codec": codec, "arithmetic": arithmetic})
            for what in ("encode", "decode"):
                ratio = theirs[f"{what}_seconds"] / ours[f"{what}_seconds"]
                setting = f"{size}, one core, {arithmetic}"
                yield Line(f"{what}, {codec}", f"CompressAI's {name}", setting, ratio, "make bench-codecs")


def _compiled(records: list[Record]) -> str:
    timed = [record for record in records if "ratio" in record]
    rows = [
        [
            str(record["key"]["batch"]),
            record["key"]["method"],
            record["key"]["engine"],
            f"{record['tokens_per_second']:.1f}",
            f"{record['ratio']:.2f}",
            f"{record['same']:.0%}" if "compile" in record["key"]["engine"] else "",
            f"{record['first_seconds']:.0f}" if "compile" in record["key"]["engine"] else "",
        ]
        for record in timed
    ]
    columns = ("rows", "method", "engine", "tokens/s", "ratio", "same", "first round, seconds")
    text = table(columns, rows) + "\n```\npython benchmarks/compiled_speed.py --save --text FILE\n```\n"
    if losses := [record for record in records if "nats" in record]:
        told = ", ".join(f"{record['key']['weights']} {record['nats']:.3f}" for record in losses)
        text += f"\nLoss in nats per token of English text (WikiText-2): {told}.\n"
    return text


def _startup(records: list[Record]) -> str:
    rows = [
        [record["key"]["what"], f"{record['seconds']:.2f}", f"{record['megabytes']:.0f}"]
        for record in {record["key"]["what"]: record for record in records}.values()
    ]
    head = "\n## Start-up\n\nMedian of three fresh processes each, on one machine.\n\n"
    return head + table(("what", "seconds", "memory, MB"), rows) + "\n```\npython benchmarks/startup.py --save\n```\n"


def _of(name: str, key: Record) -> Record:
    """The last record whose key has these entries."""
    found = [record for record in Store(name) if key.items() <= record["key"].items()]
    if not found:
        raise LookupError(f"results/{name}.jsonl has no record of {key}")
    return found[-1]


if __name__ == "__main__":
    main()
