"""The registry: one line per method. A method is found here by its slug and by its class name (`szilard.Lead`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from importlib import import_module
from typing import Any

from szilard.decoding.method import Method, nearest

# slug: (module, class)
_METHODS = {
    "greedy": ("szilard.decoding.greedy", "Greedy"),
    "sampling": ("szilard.decoding.sampling", "Sampling"),
    "beam-search": ("szilard.decoding.beam_search", "BeamSearch"),
    "lead": ("szilard.decoding.lead", "Lead"),
    "swi-reasoning": ("szilard.decoding.swi_reasoning", "SwiReasoning"),
    "adadec": ("szilard.decoding.adadec", "AdaDec"),
    "caad": ("szilard.decoding.caad", "Caad"),
    "ead": ("szilard.decoding.ead", "Ead"),
    "soft-thinking": ("szilard.decoding.soft_thinking", "SoftThinking"),
    "aded": ("szilard.speculative.aded", "Aded"),
    "chimera": ("szilard.speculative.chimera.method", "Chimera"),
    "draft-model": ("szilard.speculative.draft_model", "DraftModel"),
    "flash": ("szilard.speculative.flash.method", "Flash"),
    "hidden-transfer": ("szilard.speculative.hidden_transfer.method", "HiddenTransfer"),
    "lud": ("szilard.speculative.lud.method", "Lud"),
    "medusa": ("szilard.speculative.medusa.method", "Medusa"),
    "prompt-lookup": ("szilard.speculative.prompt_lookup", "PromptLookup"),
}
CLASSES = {name: slug for slug, (_, name) in _METHODS.items()}


@dataclass(frozen=True)
class Entry:
    """What is known of a method without running it."""

    slug: str
    cls: type[Method]
    family: str
    paper: str
    needs: frozenset[str]
    neutral: Callable[[], Method]


class Registry(Mapping[str, Entry]):
    """Methods by slug, in the order of the registry; iterating gives slugs, `values()` the entries."""

    def __getitem__(self, slug: str) -> Entry:
        if not isinstance(slug, str) or slug not in _METHODS:
            raise KeyError(slug)
        module, name = _METHODS[slug]
        cls = getattr(import_module(module), name)
        return Entry(cls.slug, cls, cls.family, cls.paper, cls.needs, cls.neutral)

    def __iter__(self) -> Iterator[str]:
        return iter(_METHODS)

    def __len__(self) -> int:
        return len(_METHODS)

    def __repr__(self) -> str:
        return f"<methods: {', '.join(self)}>"


def methods() -> Registry:
    """All methods of the library, a mapping from slug to `Entry(slug, cls, family, paper, needs, neutral)`."""
    return Registry()


def method_class(slug: str) -> type[Method]:
    """The class behind a slug (underscores and capitals are forgiven).

    Raises:
        ValueError: no such method; the nearest one is suggested.
    """
    key = slug.strip().lower().replace("_", "-")
    if key not in _METHODS:
        raise ValueError(f"there is no method {slug!r}{nearest(key, _METHODS)} Methods: {', '.join(_METHODS)}.")
    return methods()[key].cls


def make_method(method: str | type[Method] | Method | None, options: Mapping[str, Any] | None = None) -> Method:
    """A method object from a slug, a class or an object.

    Raises:
        ValueError: unknown slug or option; TypeError: something that is no method.
    """
    if method is None:
        method = "greedy"
    if isinstance(method, Method):
        if options:
            raise ValueError("options go with a method's name; set them on the object instead.")
        return method
    if isinstance(method, str):
        method = method_class(method)
    if not (isinstance(method, type) and issubclass(method, Method)):
        raise TypeError(f"method must be a name, a method class or a method object, not {method!r}.")
    names = [field.name for field in fields(method)]
    for name in options or {}:
        if name not in names:
            raise ValueError(f"{method.slug} has no option {name!r}{nearest(name, names)} It has: {', '.join(names)}.")
    return method(**(options or {}))
