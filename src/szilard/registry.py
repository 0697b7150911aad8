"""The registry: one line per method. A method is found here by its slug and by its class name (`szilard.Lead`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from importlib import import_module
from typing import TYPE_CHECKING, Any

from szilard.decoding.method import Method
from szilard.decoding.under import ModelMethod
from szilard.options import nearest

if TYPE_CHECKING:
    from szilard.compression.method import Compressor

# slug: (module, class)
_METHODS = {
    "greedy": ("szilard.decoding.greedy", "Greedy"),
    "sampling": ("szilard.decoding.sampling", "Sampling"),
    "beam-search": ("szilard.decoding.beam_search", "BeamSearch"),
    "lead": ("szilard.decoding.lead", "Lead"),
    "swi-reasoning": ("szilard.decoding.swi_reasoning", "SwiReasoning"),
    "edt": ("szilard.decoding.edt", "Edt"),
    "adadec": ("szilard.decoding.adadec", "AdaDec"),
    "caad": ("szilard.decoding.caad", "Caad"),
    "ead": ("szilard.decoding.ead", "Ead"),
    "soft-thinking": ("szilard.decoding.soft_thinking", "SoftThinking"),
    "latent-sft": ("szilard.reasoning.latent_sft.method", "LatentSFT"),
    "aded": ("szilard.speculative.aded", "Aded"),
    "chimera": ("szilard.speculative.chimera.method", "Chimera"),
    "draft-model": ("szilard.speculative.draft_model", "DraftModel"),
    "flash": ("szilard.speculative.flash.method", "Flash"),
    "hidden-transfer": ("szilard.speculative.hidden_transfer.method", "HiddenTransfer"),
    "lud": ("szilard.speculative.lud.method", "Lud"),
    "medusa": ("szilard.speculative.medusa.method", "Medusa"),
    "prompt-lookup": ("szilard.speculative.prompt_lookup", "PromptLookup"),
    "ladir": ("szilard.reasoning.ladir.method", "LaDiR"),
    "top-k-unmask": ("szilard.diffusion.unmask", "TopKUnmask"),
    "threshold-unmask": ("szilard.diffusion.unmask", "ThresholdUnmask"),
    "factor-unmask": ("szilard.diffusion.unmask", "FactorUnmask"),
    "entropy-bound": ("szilard.diffusion.unmask", "EntropyBound"),
    "schedule-unmask": ("szilard.diffusion.unmask", "ScheduleUnmask"),
    "ete": ("szilard.diffusion.ete", "Ete"),
    "learn2pd": ("szilard.diffusion.learn2pd.method", "Learn2PD"),
    "localleap": ("szilard.diffusion.localleap", "LocalLeap"),
}
# Cache and attention methods, which act on a model while they are open.
_ATTENTION = {
    "tidal-decode": ("szilard.attention.tidal_decode", "TidalDecode"),
    "quest": ("szilard.attention.quest", "Quest"),
    "streaming-llm": ("szilard.attention.streaming_llm", "StreamingLlm"),
    "h2o": ("szilard.attention.h2o", "H2o"),
    "tova": ("szilard.attention.tova", "Tova"),
    "snapkv": ("szilard.attention.snapkv", "SnapKv"),
    "pyramidkv": ("szilard.attention.pyramidkv", "PyramidKv"),
    "knorm": ("szilard.attention.key_scores", "Knorm"),
    "keydiff": ("szilard.attention.key_scores", "KeyDiff"),
    "expected-attention": ("szilard.attention.expected_attention", "ExpectedAttention"),
    "uncomp": ("szilard.attention.uncomp.method", "UnComp"),
    "random-eviction": ("szilard.attention.key_scores", "RandomEviction"),
    "entropy-prune": ("szilard.attention.entropy_prune", "EntropyPrune"),
    "first": ("szilard.attention.first.method", "First"),
    "layer-skip": ("szilard.attention.layer_skip", "LayerSkip"),
    "prefix-cache": ("szilard.diffusion.cache", "PrefixCache"),
    "window-diffusion": ("szilard.diffusion.window_diffusion", "WindowDiffusion"),
    "dual-cache": ("szilard.diffusion.cache", "DualCache"),
}
# What shortens a context before a model reads it.
_COMPRESSION: dict[str, tuple[str, str]] = {
    "llmlingua2": ("szilard.compression.llmlingua2.method", "LlmLingua2"),
    "llmlingua": ("szilard.compression.llmlingua", "LlmLingua"),
    "selective-context": ("szilard.compression.selective_context", "SelectiveContext"),
    "random-dropping": ("szilard.compression.baselines", "RandomDropping"),
    "truncation": ("szilard.compression.baselines", "Truncation"),
    "refrag": ("szilard.compression.refrag.method", "Refrag"),
    "arc-encoder": ("szilard.compression.arc_encoder.method", "ArcEncoder"),
    "comprexit": ("szilard.compression.comprexit.method", "ComprExIT"),
    "mean-pool": ("szilard.compression.mean_pool.method", "MeanPool"),
}
_ALL = _METHODS | _ATTENTION | _COMPRESSION
CLASSES = {name: slug for slug, (_, name) in _ALL.items()}


@dataclass(frozen=True)
class Entry:
    """What is known of a method without running it."""

    slug: str
    cls: type[Any]
    family: str
    paper: str
    needs: frozenset[str]
    neutral: Callable[[], Any]

    @property
    def kind(self) -> str:
        """How it is given: "method" (it chooses tokens), "attention" (acts on attention and cache) or "compressor"."""
        return "method" if issubclass(self.cls, Method) else "compressor" if self.slug in _COMPRESSION else "attention"


class Registry(Mapping[str, Entry]):
    """Methods by slug, in the order of the registry; iterating gives slugs, `values()` the entries."""

    def __getitem__(self, slug: str) -> Entry:
        if not isinstance(slug, str) or slug not in _ALL:
            raise KeyError(slug)
        module, name = _ALL[slug]
        cls = getattr(import_module(module), name)
        return Entry(cls.slug, cls, cls.family, cls.paper, cls.needs, cls.neutral)

    def __iter__(self) -> Iterator[str]:
        return iter(_ALL)

    def __len__(self) -> int:
        return len(_ALL)

    def __repr__(self) -> str:
        return f"<methods: {', '.join(self)}>"


def methods() -> Registry:
    """All methods of the library, a mapping from slug to `Entry(slug, cls, family, paper, needs, neutral)`."""
    return Registry()


def method_class(slug: str) -> type[Method]:
    """The decoding method behind a slug (underscores and capitals are forgiven).

    Raises:
        ValueError: no such method, the nearest one is suggested; or one that acts on attention.
    """
    key = _key(slug)
    if key in _ATTENTION:
        beside = "top-k-unmask" if _ATTENTION[key][0].startswith("szilard.diffusion") else "greedy"
        raise ValueError(
            f"{key!r} acts on attention and cache: give it as attention={key!r}, beside any method (at a "
            f"terminal, --method {beside}+{key})."
        )
    if key in _COMPRESSION:
        raise ValueError(
            f"{key!r} shortens a context before the model reads it: szilard.compress(context, method={key!r}), at a "
            f"terminal szilard compress --method {key}."
        )
    if key not in _METHODS:
        raise ValueError(f"there is no method {slug!r}{nearest(key, _METHODS)} Methods: {', '.join(_METHODS)}.")
    return methods()[key].cls


def attention_class(slug: str) -> type[ModelMethod]:
    """The cache or attention method behind a slug (underscores and capitals are forgiven).

    Raises:
        ValueError: no such method, the nearest one is suggested; or one that chooses tokens.
    """
    key = _key(slug)
    if key in _METHODS:
        raise ValueError(f"{key!r} chooses tokens: give it as method={key!r}, not as an attention method.")
    if key not in _ATTENTION:
        raise ValueError(
            f"there is no attention method {slug!r}{nearest(key, _ATTENTION)} They are: {', '.join(_ATTENTION)}."
        )
    return methods()[key].cls


def compressor_class(slug: str) -> type[Compressor]:
    """The compressor behind a slug (underscores and capitals are forgiven).

    Raises:
        ValueError: no such compressor, the nearest one is suggested.
    """
    key = _key(slug)
    if key not in _COMPRESSION:
        raise ValueError(
            f"there is no compressor {slug!r}{nearest(key, _COMPRESSION)} They are: {', '.join(_COMPRESSION)}."
        )
    return methods()[key].cls


def make_compressor(
    method: str | type[Compressor] | Compressor, options: Mapping[str, Any] | None = None
) -> Compressor:
    """A compressor object from a slug, a class or an object.

    Raises:
        ValueError: unknown slug or option; TypeError: something that is no compressor.
    """
    from szilard.compression.method import Compressor

    if isinstance(method, str):
        method = compressor_class(method)
    return _made(method, Compressor, "method", options)


def make_method(method: str | type[Method] | Method | None, options: Mapping[str, Any] | None = None) -> Method:
    """A method object from a slug, a class or an object.

    Raises:
        ValueError: unknown slug or option; TypeError: something that is no method.
    """
    if method is None:
        method = "greedy"
    if isinstance(method, str):
        method = method_class(method)
    return _made(method, Method, "method", options)


def make_attention(
    method: str | type[ModelMethod] | ModelMethod | None, options: Mapping[str, Any] | None = None
) -> ModelMethod | None:
    """A cache or attention method from a slug, a class or an object; None stays None.

    Raises:
        ValueError: unknown slug or option; TypeError: something that is no such method.
    """
    if method is None:
        return None
    if isinstance(method, str):
        method = attention_class(method)
    return _made(method, ModelMethod, "attention", options)


def _key(slug: str) -> str:
    return slug.strip().lower().replace("_", "-")


def _made(method: Any, kind: type[Any], words: str, options: Mapping[str, Any] | None) -> Any:
    if isinstance(method, kind):
        if options:
            raise ValueError("options go with a method's name; set them on the object instead.")
        return method
    if not (isinstance(method, type) and issubclass(method, kind)):
        raise TypeError(f"{words} must be a name, a class or an object of one, not {method!r}.")
    cls: Any = method
    names = [field.name for field in fields(cls)]
    for name in options or {}:
        if name not in names:
            raise ValueError(f"{cls.slug} has no option {name!r}{nearest(name, names)} It has: {', '.join(names)}.")
    return cls(**(options or {}))
