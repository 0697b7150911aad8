"""Options that several commands share, and what they turn into."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from szilard.decoding.method import Method
from szilard.decoding.under import Under
from szilard.options import parse_option
from szilard.registry import attention_class, make_attention, make_method, method_class

ModelOption = Annotated[
    str | None,
    typer.Option("--model", "-m", help="Hub id, folder, *.gguf or zoo/<name>; default: the embedded SmolLM2-135M."),
]
EngineOption = Annotated[str, typer.Option("--engine", help="auto, transformers or llama.cpp (GGUF).")]
DeviceOption = Annotated[str | None, typer.Option("--device", help="cpu, cuda, mps; default: what there is.")]
DtypeOption = Annotated[str, typer.Option("--dtype", help="auto, float32, bfloat16, float16 or float64.")]
CompileOption = Annotated[
    bool, typer.Option("--compile", help="Compile the steps behind the prompt: a minute at first, then faster.")
]
QuantizeOption = Annotated[str | None, typer.Option("--quantize", help="int8 or int4: the weights in fewer bits.")]
MethodOption = Annotated[
    str | None,
    typer.Option(
        "--method",
        help="A name from `szilard methods`, or two: lead+snapkv; default: greedy, or sampling with --sample.",
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", "-s", help="A hyperparameter of the method: name=value. Repeatable.", metavar="NAME=VALUE"),
]
TokensOption = Annotated[int, typer.Option("--max-new-tokens", "-n", help="Length limit in tokens.")]
SeedOption = Annotated[int | None, typer.Option("--seed", help="Makes sampling repeatable.")]
SampleOption = Annotated[bool, typer.Option("--sample", help="Draw tokens instead of taking the likeliest.")]
TemperatureOption = Annotated[float | None, typer.Option("--temperature", help="With --sample.")]
TopPOption = Annotated[float | None, typer.Option("--top-p", help="With --sample.")]
TopKOption = Annotated[int | None, typer.Option("--top-k", help="With --sample.")]
SystemOption = Annotated[str | None, typer.Option("--system", help="A system message.")]
RawOption = Annotated[bool, typer.Option("--raw", help="Continue the text as it is, without the chat template.")]
StopOption = Annotated[list[str] | None, typer.Option("--stop", help="Stop at this text. Repeatable.")]
ImageOption = Annotated[list[Path] | None, typer.Option("--image", help="A picture for the prompt. Repeatable.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
HtmlOption = Annotated[Path | None, typer.Option("--html", help="Also write a self-contained page of the trace.")]


def method_from(name: str | None, assignments: Sequence[str] | None) -> Method | None:
    """The method of `--method NAME --set a=b`; None for plain decoding.

    `NAME+ATTENTION` is a method under a cache or attention method, whose options are written ATTENTION.a=b.

    Raises:
        ValueError: an unknown method or option, or a hyperparameter without a method.
    """
    if name is None:
        if assignments:
            raise ValueError(f"--set {assignments[0]} belongs to a method; name it with --method.")
        return None
    decoding, plus, under = name.partition("+")
    if not plus:
        cls = method_class(name)
        return make_method(cls, dict(parse_option(cls, text) for text in assignments or ()))
    cls = method_class(decoding)
    attention, others = attention_from(under, assignments)
    ours, theirs = cls.__dataclass_fields__, type(attention).__dataclass_fields__
    for text in others:
        option = text.partition("=")[0].strip().replace("-", "_")
        if option in theirs and option not in ours:
            raise ValueError(f"{option!r} is an option of {attention.slug!r}: write {attention.slug}.{text}")
    return Under(make_method(cls, dict(parse_option(cls, text) for text in others)), attention)


def attention_from(name: str, assignments: Sequence[str] | None) -> tuple[Any, list[str]]:
    """The cache or attention method of a name and `NAME.a=b`, and the assignments that are not its own.

    Raises:
        ValueError: an unknown method or option.
    """
    cls = attention_class(name)
    own, others = [], []
    for text in assignments or ():
        owner, dot, rest = text.partition(".")
        if dot and owner.strip().lower().replace("_", "-") == cls.slug:
            own.append(rest)
        else:
            others.append(text)
    made = make_attention(cls, dict(parse_option(cls, text) for text in own))
    assert made is not None
    return made, others


def sampling_from(sample: bool, temperature: float | None, top_p: float | None, top_k: int | None) -> dict[str, Any]:
    """Generation options of `--sample --temperature ...`.

    Raises:
        ValueError: a sampling setting without --sample, or out of range.
    """
    given = {"temperature": temperature, "top_p": top_p, "top_k": top_k}
    given = {name: value for name, value in given.items() if value is not None}
    if given and not sample:
        flag = next(iter(given)).replace("_", "-")
        raise ValueError(
            f"--{flag} only acts with --sample; add it, or use --method sampling --set {next(iter(given))}=..."
        )
    if temperature is not None and not temperature > 0:
        raise ValueError(f"--temperature must be above 0, not {temperature}; leave out --sample for greedy decoding.")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"--top-p must be above 0 and at most 1, not {top_p}.")
    if top_k is not None and top_k < 0:
        raise ValueError(f"--top-k must be at least 0 (all tokens), not {top_k}.")
    return {"do_sample": True, **given} if sample else {}


def prompt_from(prompt: str | None, system: str | None) -> Any:
    """The prompt as `generate` takes it; `-` or nothing reads standard input.

    Raises:
        ValueError: nothing there.
    """
    if prompt is None or prompt == "-":
        if prompt is None and sys.stdin.isatty():
            raise ValueError('give a prompt, as in: szilard generate "Why is the sky blue?"')
        prompt = sys.stdin.read()
    if not prompt.strip():
        raise ValueError("the prompt is empty; give some text.")
    if system is None:
        return prompt
    return [{"role": "system", "content": system}, {"role": "user", "content": prompt}]


def check_writable(path: Path | None) -> None:
    """Refuse an output file that cannot be written, before any work.

    Raises:
        ValueError: its folder is missing or closed, or it is a folder or a read-only file.
    """
    if path is None:
        return
    if path.is_dir():
        raise ValueError(f"{str(path)!r} is a folder; name a file in it.")
    folder = path.resolve().parent
    if not folder.is_dir():
        raise ValueError(f"the folder {str(folder)!r} does not exist; make it first.")
    try:
        if not path.exists() or path.is_file():
            tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ValueError(f"nothing can be written to the folder {str(folder)!r} ({error.strerror}).") from error
    if path.exists() and not os.access(path, os.W_OK):
        raise ValueError(f"{str(path)!r} is there and must not be written: name another file.")


def check_other_file(output: Path, source: Path) -> None:
    """Refuse to write over what is read.

    Raises:
        ValueError: both are the same file.
    """
    if output.exists() and source.exists() and output.samefile(source):
        raise ValueError(f"{str(output)!r} is the file that is read: name another one for what is written.")


def write_text(path: Path, text: str) -> None:
    """Write a file in one step: never a half-written one. A link is followed; a device or pipe is written to."""
    path = path.resolve()
    if path.exists() and not path.is_file():
        path.write_text(text, encoding="utf-8")
        return
    handle, scratch = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(scratch, 0o644)
        os.replace(scratch, path)
    except BaseException:
        Path(scratch).unlink(missing_ok=True)
        raise
