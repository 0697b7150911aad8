"""The reproduction page's section on the server: load, waiting times, equal answers, and another server beside it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from markdown_table import table
from results_store import Store

HEAD = """## Serving: under load

One model behind `szilard serve`, asked by many clients at once; what each request got is compared with what it got alone
before the load. "First" is the time from the request to its first piece of text, "each" the time between pieces, both of
streamed replies; "left over" counts rows and waiting jobs on the server after the load.

```
python benchmarks/serve_load.py --part throughput --save
python benchmarks/serve_load.py --part soak --seconds 300 --save
python benchmarks/serve_load.py --part mixed --save
python benchmarks/serve_load.py --part open --rate 2 --save
python benchmarks/serve_load.py --part peer --save
python benchmarks/serve_ray_kill.py --save
```
"""
READING = """**Reading** (two cores, the embedded model). Eight clients get 4.4 times the tokens per second of one. Beside
`transformers serve` on the same weights in one run szilard writes 17.9 tokens/s for one client and 92.2 for eight (15.4 and 16.1; with its continuous batching 16.5 and 76.1), and the texts are the same. In five minutes of 32 streaming clients, a fifth of whom hang up in mid-stream, every reply,
greedy, drawn with a seed, by `lead` and by prompt-lookup, is what the same request got alone (cut ones are its beginning), and no row and no job is left. Memory is flat: after the first minute and a half it neither grows
nor holds (1,617 MB after 93 seconds, 1,591 after 311, at most 1,644), since free pages of the caches that came and went are given back every few seconds; before that it crept up by 5 to 8 %. The loads of many kinds ran on a slower machine than the throughputs.
"""


def page() -> Iterator[str]:
    """Markdown of the section; nothing where nothing was measured."""
    records = list(Store("serve"))
    if not records:
        return
    parts: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        parts.setdefault(record["key"]["part"], []).append(record)
    yield HEAD
    yield from throughputs("Eight clients against one, greedy", parts.get("throughput", []))
    yield from throughputs("The same weights behind transformers' own server", parts.get("peer", []))
    yield from loads([*parts.get("soak", []), *parts.get("mixed", []), *parts.get("open", [])])
    for record in parts.get("ray kill", []):
        yield killed(record)
    if READING:
        yield READING


def throughputs(title: str, records: list[dict[str, Any]]) -> Iterator[str]:
    """Tokens a second by the number of clients."""
    if not records:
        return
    counts = list(records[0]["tokens_per_s_by_clients"])
    rows = []
    for record in records:
        key = record["key"]
        cells = [key.get("server", "szilard"), str(key["threads"]), str(key["tokens"])]
        cells += [f"{record['tokens_per_s_by_clients'][count]:g}" for count in counts]
        cells.append(f"{record['ratio']:.2f}")
        for count in counts:
            cells.append(_pair(record[f"first_token_ms, clients {count}"]))
            cells.append(_pair(record[f"per_token_ms, clients {count}"]))
        rows.append([*cells, str(record["errors"])])
    columns = ["server", "threads", "tokens", *(f"tokens/s, clients: {count}" for count in counts), "ratio"]
    for count in counts:
        columns += [f"first, {count}: p50 / p95 ms", f"each, {count}: p50 / p95 ms"]
    yield f"**{title}**\n\n" + table([*columns, "errors"], rows)


def loads(records: list[dict[str, Any]]) -> Iterator[str]:
    """Loads of many kinds of requests."""
    if not records:
        return
    rows = []
    for record in records:
        key, memory = record["key"], record.get("resident_mb")
        arrivals = f"{record['clients']} clients" if record["clients"] else f"{key['rate']:g} requests/s"
        rows.append(
            [
                f"{key['part']}, {arrivals}, {key['seconds']:g} s",
                str(record["requests"]),
                str(record["left"]),
                str(record["errors"]),
                ", ".join(f"{kind} {count}" for kind, count in record["not_as_alone"].items()),
                _pair(record["first_token_ms"]),
                _pair(record["per_token_ms"]),
                f"{record['tokens_per_s']:g}",
                f"{memory['first']:.0f}, {memory['most']:.0f}, {memory['last']:.0f}" if memory else "",
                ", ".join(f"{value:g} {name.replace('_', ' ')}" for name, value in record["left_over"].items()),
            ]
        )
    columns = ("load", "requests", "left", "errors", "not as alone", "first: p50 / p95 ms", "each: p50 / p95 ms")
    yield "**Many kinds at once**\n\n" + table(
        (*columns, "tokens/s", "MB at first, at most, at last", "left over"), rows
    )


def killed(record: dict[str, Any]) -> str:
    """What became of requests when a replica was killed."""
    key = record["key"]
    spans = [name for name, value in record.items() if isinstance(value, dict) and "whole" in value]
    rows = [[name, *(str(count) for count in record[name].values())] for name in spans]
    title = (
        f"**One of two replicas is killed**: {key['model']}, {key['clients']} clients for {key['seconds']:g} s; two replicas "
        f"answered again after {record['seconds_until_two_again']} s; not as alone: {record['not_as_alone']}\n\n"
    )
    return title + table(("requests", *record[spans[0]]), rows)


def _pair(quantiles: dict[str, float]) -> str:
    return f"{quantiles['p50']:.0f} / {quantiles['p95']:.0f}" if quantiles else ""


if __name__ == "__main__":
    print("\n".join(page()))
