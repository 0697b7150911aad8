"""What every decoding method is: a frozen dataclass of hyperparameters and one loop on the decoding state."""

from __future__ import annotations

import collections
import collections.abc
import dataclasses
import hashlib
import json
import math
import types
import typing
from abc import ABC, abstractmethod
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, ClassVar

import torch

from szilard.decoding.state import DecodingState

if typing.TYPE_CHECKING:
    from szilard.engines.engine import Engine

Shaping: typing.TypeAlias = collections.abc.Callable[
    [collections.abc.Sequence[collections.abc.Sequence[int]], torch.Tensor], torch.Tensor
]


@dataclass(frozen=True)
class Method(ABC):
    """One published technique. Subclasses are frozen dataclasses and implement `decode` and `neutral`.

    An instance is a valid `custom_generate` callable of transformers, and a valid `method` of `Engine.generate`.
    """

    slug: ClassVar[str]
    family: ClassVar[str] = "decoding"
    paper: ClassVar[str]
    needs: ClassVar[frozenset[str]] = frozenset({"logits"})
    honours_do_sample: ClassVar[bool] = True  # False: the method itself fixes whether tokens are drawn
    changes_model: ClassVar[bool] = False  # True: while it runs the model gives other values to whoever else runs it

    @classmethod
    @abstractmethod
    def neutral(cls) -> Method:
        """The setting in which the method is plain decoding, token for token."""

    @abstractmethod
    def decode(self, state: DecodingState) -> None:
        """Generate until `state.done`. Hyperparameters are in `self`, everything that changes is in `state`."""

    def check(self, engine: Engine | None = None) -> None:  # noqa: B027 - most settings that can be written can run
        """Refuse, before any work, a setting that lacks what it needs to run.

        Args:
            engine: on which it is to run; None: look only at what needs no model.

        Raises:
            ValueError: a file, a model or a number is missing, or does not fit the engine.
        """

    def with_assistant(self, model: Any) -> Method:
        """The method as it runs in `generate(..., assistant_model=model)`; most have no use for a second model."""
        return self

    def shaping(self, state: DecodingState) -> Shaping | None:
        """How the method changes the next-token logits of *given* text; None: it acts only while it writes.

        Returns:
            A function of the token ids so far (one list per row) and the raw logits [rows, vocab] that gives the
            shaped logits [rows, vocab].
        """
        return None

    def __call__(
        self,
        model: Any,
        input_ids: torch.Tensor,
        logits_processor: Any = None,
        stopping_criteria: Any = None,
        generation_config: Any = None,
        synced_gpus: bool = False,
        streamer: Any = None,
        **model_kwargs: Any,
    ) -> Any:
        """The signature of `GenerationMixin._sample`, so that `model.generate(custom_generate=method)` works.

        Returns:
            int64 [batch, length], or with `return_dict_in_generate` a `GenerateDecoderOnlyOutput` that also carries
            `trace` and `cost`.
        """
        from szilard.engines.transformers_generate import run_inside_generate

        return run_inside_generate(
            self,
            model,
            input_ids,
            logits_processor,
            stopping_criteria,
            generation_config,
            synced_gpus,
            streamer,
            model_kwargs,
        )

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


def row_streams(seed: int, state: DecodingState) -> list[torch.Generator]:
    """A random stream per row, for controls that decide at random.

    A row's stream depends on the seed and its prompt: a prompt draws alike in every batch, and others draw otherwise;
    equal prompts in one batch, and prompts that came as embeddings, have a stream by their place.
    """
    streams = []
    seen: collections.Counter[bytes] = collections.Counter()
    for ids, mask in zip(state.tokens[:, : state.prompt_width], state.prompt_mask.bool(), strict=True):
        prompt = ids[mask].cpu().numpy().tobytes() if len(ids) else b""  # it came as embeddings
        key = hashlib.sha256(f"{seed} {seen[prompt]} ".encode() + prompt).digest()
        streams.append(torch.Generator().manual_seed(int.from_bytes(key[:8], "little") >> 1))
        seen[prompt] += 1
    return streams


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


def parse_option(cls: type[Method], assignment: str) -> tuple[str, Any]:
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
        raise ValueError(f"{cls.slug} has no option {name!r}{nearest(name, names)} It has: {', '.join(names)}.")
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
    wanted = " or ".join(words.get(member, getattr(member, "__name__", str(member))) for member in members)
    raise ValueError(f"{name} must be {wanted}, not {text!r}.")
