"""What the harness's `--model_args` say to szilard: the method, its options, the batch size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from szilard.decoding.method import Method
from szilard.options import nearest, parse_option
from szilard.registry import make_method, method_class

_PREFIX = "method."


def method_of(method: str | Method | None, options: Mapping[str, Any], known: Sequence[str]) -> Method | None:
    """The method of `method=` and `method.NAME=value` arguments.

    Args:
        method: its name, or an object.
        options: all arguments that are no model argument.
        known: the model arguments.

    Raises:
        ValueError: an unknown argument, method or option, or a value that is not of the option's type.
    """
    if strangers := [name for name in options if not name.startswith(_PREFIX)]:
        raise ValueError(
            f"szilard takes no model argument {strangers[0]!r}{nearest(strangers[0], known)} It takes: "
            f"{', '.join(known)}, and {_PREFIX}NAME for an option of the method."
        )
    if method is None and options:
        raise ValueError(f"{next(iter(options))} needs a method: add method=NAME.")
    if method is None:
        return None
    if isinstance(method, Method):
        return make_method(method, options)
    cls = method_class(str(method))
    return make_method(
        cls, dict(parse_option(cls, f"{name.removeprefix(_PREFIX)}={value}") for name, value in options.items())
    )


def batch_size_of(given: int | str) -> int | None:
    """Prompts at a time; None for "auto" and "auto:N".

    Raises:
        ValueError: neither of these nor a whole number of at least 1.
    """
    text = str(given)
    if text.partition(":")[0] == "auto":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f'batch_size must be a whole number of at least 1 or "auto", not {given!r}.')
    return int(text)
