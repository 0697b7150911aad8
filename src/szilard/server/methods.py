"""Which methods requests may choose on an engine, with which hyperparameters, and how they are described to a page."""

from __future__ import annotations

import dataclasses
import math
import re
import types
import typing
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from szilard.decoding.method import Method
from szilard.decoding.under import Under
from szilard.options import nearest, parse_option
from szilard.registry import Entry, attention_class, make_method, method_class, methods
from szilard.server.errors import RequestError

if TYPE_CHECKING:
    from szilard.engines.engine import Engine

Presets = Mapping[str, Mapping[str, Any]]
MOST = 2**20  # of a whole number; those that make a step larger are bounded by WIDEST
WIDEST = {"beams": 16, "candidates": 16, "lookahead": 64, "max_lookahead": 64, "branches": 16, "iterations": 1000}
WIDEST |= {"max_nodes": 256, "draft_tokens": 64, "depth": 32, "keep": 256, "rounds": 16, "revise": 64}
WIDEST |= {"num_steps": 1000, "max_blocks": 256, "steps": 4096, "top_n": 256, "answer_budget": 256, "seed": 2**63 - 1}
_WORD = re.compile(r"[A-Za-z0-9_+\-]{1,40}")


class Offered:
    """The methods of a server.

    Args:
        engine: what it runs.
        default: of requests that name none; None: plain decoding.
        presets: hyperparameters by method that who runs the server has set, such as a drafter's folder.
    """

    def __init__(self, engine: Engine, default: Method | None, presets: Presets | None = None) -> None:
        self._engine, self.default, self._presets = engine, default, presets or {}

    @cached_property
    def entries(self) -> list[Entry]:
        """Methods that choose tokens and that run on this engine as they are, or with their presets."""
        return [entry for entry in methods().values() if entry.kind == "method" and self._runs(entry)]

    def _runs(self, entry: Entry) -> bool:
        if not entry.needs <= self._engine.provides:
            return False
        try:
            make_method(entry.cls, self._presets.get(entry.slug)).check(self._engine)
        except (ValueError, TypeError):
            return False
        return True

    def chosen(self, name: str | None, options: dict[str, Any]) -> Method | None:
        """The method of a request; None: plain decoding.

        Raises:
            RequestError: 404 for an unknown method, 400 for wrong options or one that this engine cannot run.
        """
        if name is None:
            if options:
                raise RequestError(
                    400, "szilard.options belong to a method: name it in szilard.method.", param="szilard"
                )
            return self.default
        if self.default is not None and not options and name.strip().lower() == self.default.slug:
            return self.default
        decoding, _, under = name.partition("+")
        try:
            cls = method_class(decoding)
            over: Any = attention_class(under) if under else None
        except ValueError as error:
            raise RequestError(404, str(error), param="szilard.method", code="method_not_found") from None
        try:
            mine, theirs = self._split(cls, over, options)
            method = make_method(cls, {**self._presets.get(cls.slug, {}), **mine})
            if over is not None:
                method = Under(method, over(**theirs))
            if missing := method.needs - self._engine.provides:
                raise ValueError(
                    f"{method.slug!r} needs {', '.join(sorted(missing))}, which {self._engine.name} lacks."
                )
            method.check(self._engine)
        except (ValueError, TypeError) as error:
            raise RequestError(400, str(error), param="szilard.options") from None
        return method

    def described(self) -> list[dict[str, Any]]:
        """Name, paper and hyperparameters of every method, for a page that offers them."""
        found = []
        for entry in self.entries:
            fields = [field for field in map(self._field, *_fields(entry.cls)) if field is not None]
            about = " ".join((entry.cls.__doc__ or "").strip().partition("\n\n")[0].split())
            found.append({"name": entry.slug, "paper": entry.paper, "about": about, "options": fields})
        return found

    def _split(self, cls: Any, over: Any, options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Options of a method, and of an attention method (`snapkv.budget`)."""
        mine, theirs = {}, {}
        for name, value in options.items():
            owner, dot, rest = name.partition(".")
            if over is not None and dot and owner == over.slug:
                key, typed = _option(over, rest, value)
                theirs[key] = typed
            else:
                key, typed = _option(cls, name, value)
                mine[key] = typed
        return mine, theirs

    @staticmethod
    def _field(field: dataclasses.Field[Any], hint: Any) -> dict[str, Any] | None:
        kinds = [kind for kind in (bool, int, float, str) if kind in _members(hint)]
        if not kinds or (kinds == [str] and not _is_word(field.default)):
            return None
        default = None if field.default is dataclasses.MISSING else field.default
        plain = default if isinstance(default, (bool, int, float, str)) else None
        if isinstance(plain, float) and not math.isfinite(plain):
            plain = str(plain)  # JSON has no infinity
        return {
            "name": field.name,
            "type": "boolean" if bool in kinds else "number" if (int in kinds or float in kinds) else "text",
            "whole": int in kinds and float not in kinds,
            "default": plain,
            "optional": type(None) in _members(hint),
        }


def _fields(cls: Any) -> tuple[list[Any], list[Any]]:
    hints = typing.get_type_hints(cls)
    own = list(dataclasses.fields(cls))
    return own, [hints[field.name] for field in own]


def _members(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)


def _takes_numbers(cls: Any, name: str) -> bool:
    """Whether a number or a switch is meant as one: elsewhere its digits would be read as a file's or model's name."""
    return any(kind in (bool, int, float) for kind in _members(typing.get_type_hints(cls)[name]))


def _is_word(value: Any) -> bool:
    return isinstance(value, str) and _WORD.fullmatch(value) is not None


def _option(cls: Any, name: str, value: Any) -> tuple[str, Any]:
    """A hyperparameter of a request; a word only where the default is one: files and models are the server's to name.

    Raises:
        ValueError: unknown, of a wrong type, or not to be set by requests.
    """
    fields = {field.name: field for field in dataclasses.fields(cls)}
    key = name.strip().replace("-", "_")
    if key not in fields:
        raise ValueError(
            f"{cls.slug} has no option {name!r}{nearest(key, fields)} It has: {', '.join(fields) or 'none'}."
        )
    if isinstance(value, str) and not (_is_word(fields[key].default) and _is_word(value)):
        raise ValueError(f"{cls.slug}'s {key} cannot be text in a request: who runs the server sets it.")
    if not (value is None or isinstance(value, str) or _takes_numbers(cls, key)):
        raise ValueError(f"{cls.slug}'s {key} cannot be set by a request: who runs the server sets it.")
    if not (value is None or isinstance(value, (bool, int, float, str))):
        raise ValueError(
            f"{cls.slug}'s {key} must be a number, true, false, null or a word, not {type(value).__name__}."
        )
    most = WIDEST.get(key, MOST)
    if isinstance(value, int) and abs(value) > most:
        raise ValueError(f"{cls.slug}'s {key} may be at most {most:,} in a request: who runs the server may set more.")
    text = "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return parse_option(cls, f"{key}={text}")
