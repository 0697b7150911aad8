"""Which method runs, of what `generate` is given."""

from __future__ import annotations

from typing import Any

from szilard.decoding.method import Method
from szilard.decoding.under import decoding_of
from szilard.registry import make_method

_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "typical_p")


def method_with(method: Any, options: dict[str, Any]) -> Method:
    """The method to run. `Sampling` takes its settings out of `options`.

    Raises:
        ValueError: sampling settings that would not act.
    """
    chosen = make_method(method)
    given = {name: options[name] for name in _SAMPLING if options.get(name) is not None}
    if decoding_of(chosen).slug == "sampling" and given:
        if isinstance(method, Method):
            raise ValueError(f"the method 'sampling' has settings of its own: give {', '.join(given)} to the method.")
        for name in given:
            del options[name]
        return make_method("sampling", given)
    if given and not options.get("do_sample"):
        name = next(iter(given))
        raise ValueError(f"{name} only acts with do_sample=True; add that, or leave {name} out.")
    return chosen
