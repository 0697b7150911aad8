"""Hyperparameters: frozen dataclasses whose fields are checked, printed, and read from a command line."""

from __future__ import annotations

import collections.abc
import dataclasses
import json
import math
import types
import typing
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, ClassVar

import torch

if typing.TYPE_CHECKING:
    from szilard.engines.engine import Engine


@dataclass(frozen=True)
class Options:
    """What every method has: hyperparameters by name, as a frozen dataclass's fields."""

    slug: ClassVar[str]

    def options(self) -> dict[str, Any]:
        """Hyperparameters by name, as given."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def changed_options(self) -> dict[str, Any]:
        """The hyperparameters that differ from the class's defaults."""
        changed = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, torch.Tensor):
                changed[field.name] = f"tensor{list(value.shape)}"
            elif value != field.default:
                changed[field.name] = value
        return changed

    def recorded_options(self, engine: Engine) -> dict[str, Any]:
        """The changed hyperparameters as results keep them: what names stand for on this engine."""
        return self.changed_options()

    def __str__(self) -> str:
        inside = ", ".join(f"{name}={value!r}" for name, value in self.changed_options().items())
        return f"{self.slug}({inside})" if inside else self.slug


def check_number(
    name: str,
    value: Any,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    integer: bool = False,
    optional: bool = False,
) -> None:
    """Refuse a hyperparameter of the wrong type (TypeError) or outside [low, high] (ValueError) in one sentence."""
    if value is None and optional:
        return
    kind = "a whole number" if integer else "a number"
    accepted = (int,) if integer else (int, float)
    if isinstance(value, bool) or not isinstance(value, accepted):
        raise TypeError(f"{name} must be {kind}{' or None' if optional else ''}, not {value!r}.")
    if integer and high == math.inf:
        high = 2**63 - 1  # what a tensor can hold
    if math.isnan(value) or not low <= value <= high or (isinstance(value, int) and abs(value) >= 2**63):
        allowed = f"between {low:g} and {high:g}" if high < 2**62 else f"at least {low:g}"
        raise ValueError(f"{name} must be {allowed}, not {value!r}.")


def check_choice(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    """Refuse a hyperparameter that is none of the allowed words."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, not {value!r}.")


def check_bool(name: str, value: Any) -> None:
    """Refuse a switch that is neither True nor False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, not {value!r}.")


def nearest(word: str, words: typing.Iterable[str]) -> str:
    """`; did you mean 'x'?` for the word closest to a mistyped one, or a full stop."""
    close = get_close_matches(word, list(words), n=1)
    return f"; did you mean {close[0]!r}?" if close else "."


def parse_option(cls: type[Options], assignment: str) -> tuple[str, Any]:
    """Turn `name=value` of a command line into a typed hyperparameter of `cls`.

    Raises:
        ValueError: no `=`, an unknown name (the nearest is suggested), or a value that is not of the field's type.
    """
    name, equals, text = assignment.partition("=")
    if not equals:
        raise ValueError(f"an option is written name=value, not {assignment!r}.")
    name = name.strip().replace("-", "_")
    hints = typing.get_type_hints(cls)
    names = [field.name for field in dataclasses.fields(cls)]
    if name not in names:
        raise ValueError(
            f"{cls.slug} has no option {name!r}{nearest(name, names)} It has: {', '.join(names) or 'none'}."
        )
    return name, _typed(name, text.strip(), hints[name])


_COLLECTIONS = {list, tuple, set, frozenset, collections.abc.Sequence}


def check_ids(name: str, value: Any) -> tuple[int, ...]:
    """Token ids as a tuple.

    Raises:
        TypeError: not a collection of whole numbers.
    """
    collection = isinstance(value, (list, tuple, set, frozenset, range))
    if not collection or not all(isinstance(token, int) and not isinstance(token, bool) for token in value):
        raise TypeError(f"{name} must be text, token ids (whole numbers in a list) or None, not {value!r}.")
    return tuple(sorted(value)) if isinstance(value, (set, frozenset)) else tuple(value)


def _typed(name: str, text: str, hint: Any) -> Any:
    """The value of `text` under a field's type; a union is tried from its most to its least specific member."""
    members = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if text.lower() in {"none", "null"} and type(None) in members:
        return None
    if bool in members and text.lower() in {"true", "false"}:
        return text.lower() == "true"
    for number in (int, float):
        if number in members:
            try:
                return number(text)
            except ValueError:
                continue
    if any(typing.get_origin(member) in _COLLECTIONS for member in members) and text[:1] in "[{":
        try:
            return check_ids(name, tuple(json.loads(text)))
        except json.JSONDecodeError:
            raise ValueError(f"{name}={text!r} is not a list of token ids, as in [1, 2].") from None
    if str in members:
        return text
    words = {int: "a whole number", float: "a number", type(None): "none", bool: "true or false"}
    words |= {member: "a list, as in [1, 2]" for member in members if typing.get_origin(member) in _COLLECTIONS}
    wanted = " or ".join(
        dict.fromkeys(words.get(member, getattr(member, "__name__", str(member))) for member in members)
    )
    raise ValueError(f"{name} must be {wanted}, not {text!r}.")
