"""Tables of records as they are: what differs of their keys, then every number; repetitions are averaged."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from markdown_table import table

Record = dict[str, Any]


def tables(records: Sequence[Record], *, over: Sequence[str] = ()) -> Iterator[str]:
    """Per part of a benchmark (the key's "part", where there is one): what all its records share, and a table.

    Args:
        records: with "key" and values; numbers, words, dicts of these and short lists of numbers are shown.
        over: parts of the key that number repetitions, over which numbers are averaged.
    """
    parts: dict[Any, list[Record]] = defaultdict(list)
    for record in records:
        parts[record["key"].get("part")].append(record)
    for part, own in parts.items():
        names = list(dict.fromkeys(name for record in own for name in record["key"] if name not in ("part", *over)))
        varies = [name for name in names if len({str(record["key"].get(name)) for record in own}) > 1]
        shared = [f"{_words(name)} {_shown(own[0]['key'][name])}" for name in names if name not in varies]
        for name in over:
            count = len({str(record["key"].get(name)) for record in own})
            if count > 1:
                shared.append(f"mean over {count} of {_words(name)}")
        groups: dict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)
        for record in own:
            groups[tuple(_shown(record["key"].get(name)) for name in varies)].append(_flat(record))
        columns = list(dict.fromkeys(name for rows in groups.values() for row in rows for name in row))
        lines = [
            [*key, *(_shown(_mean([row.get(name) for row in rows])) for name in columns)]
            for key, rows in groups.items()
        ]
        title = f"**{_words(str(part))}**" if part is not None else ""
        note = ": ".join(text for text in (title, ", ".join(shared)) if text)
        yield (f"{note}\n\n" if note else "") + table([_words(name) for name in (*varies, *columns)], lines)


def _flat(record: Record) -> dict[str, Any]:
    """Values by name, of dicts by "name, entry"; what is no number, word or short list of numbers is left out."""
    found: dict[str, Any] = {}
    for name, value in record.items():
        if name in ("key", "environment"):
            continue
        entries = (
            {f"{name}, {entry}": inner for entry, inner in value.items()} if isinstance(value, dict) else {name: value}
        )
        for entry, inner in entries.items():
            few = (
                isinstance(inner, list) and 0 < len(inner) <= 12 and all(isinstance(one, (int, float)) for one in inner)
            )
            if isinstance(inner, (int, float, str)) or few:
                found[entry] = inner
    return found


def _mean(values: Sequence[Any]) -> Any:
    numbers = [value for value in values if isinstance(value, (int, float)) and not isinstance(value, bool)]
    if len(numbers) < len(values) or len(values) == 1:
        return values[0]
    return sum(numbers) / len(numbers)


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list):
        return ", ".join(_shown(one) for one in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _words(name: str) -> str:
    return name.replace("_", " ")
