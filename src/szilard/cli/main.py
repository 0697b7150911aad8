"""The command line: one file per command, thin; this one joins them and turns errors into exit codes.

0: done. 2: bad input, one sentence on stderr. 1: our fault.
"""

from __future__ import annotations

import errno
import logging
import os
import sys

import typer

from szilard.cli import (
    analyze_agentic_mi,
    analyze_attention_entropy,
    analyze_concepts,
    analyze_infomec,
    analyze_long_context,
    analyze_markov,
    analyze_matrix_entropy,
    analyze_open_ended,
    analyze_private_inference,
    analyze_visual_entropy,
    chat,
    compare,
    compress,
    decode,
    doctor,
    encode,
    evaluate,
    evaluate_codecs,
    generate,
    info,
    lm_eval,
    methods,
    report,
    serve,
    trace,
    train_adadec,
    train_aded,
    train_arc_encoder,
    train_caad,
    train_codec,
    train_comprexit,
    train_entropy_guided_attention,
    train_feds,
    train_heads,
    train_koopman,
    train_ladir,
    train_learn2pd,
    train_llmlingua2,
    train_lv_rae,
    train_qlae,
    train_sae,
    train_tidal_decode,
    train_uncomp,
    train_vl_jepa,
)

app = typer.Typer(
    name="szilard",
    help="Information-aware inference: measure the uncertainty, then spend the compute only where it is.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("methods")(methods.methods_command)
app.command("info")(info.info_command)
app.command("generate")(generate.generate_command)
app.command("chat")(chat.chat_command)
app.command("compare")(compare.compare_command)
app.command("compress")(compress.compress_command)
app.command("encode")(encode.encode_command)
app.command("decode")(decode.decode_command)
app.command("trace")(trace.trace_command)
app.command("evaluate")(evaluate.evaluate_command)
app.command("evaluate-codecs")(evaluate_codecs.evaluate_codecs_command)
app.command("report")(report.report_command)
app.command("lm-eval", context_settings=lm_eval.SETTINGS)(lm_eval.lm_eval_command)
app.command("serve")(serve.serve_command)
app.command("doctor")(doctor.doctor_command)
train = typer.Typer(help="Fit the small part that a method needs for a model.", no_args_is_help=True)
train.command("adadec")(train_adadec.adadec)
train.command("aded")(train_aded.aded)
train.command("arc-encoder")(train_arc_encoder.arc_encoder)
train.command("caad")(train_caad.caad)
train.command("codec")(train_codec.codec)
train.command("comprexit")(train_comprexit.comprexit)
train.command("entropy-guided-attention")(train_entropy_guided_attention.entropy_guided_attention)
train.command("feds")(train_feds.feds)
train.command("koopman")(train_koopman.koopman)
train.command("ladir")(train_ladir.ladir)
train.command("infogan")(train_qlae.infogan)
train.command("qlae")(train_qlae.qlae)
train.command("sae")(train_sae.sae)
train.command("tidal-decode")(train_tidal_decode.tidal_decode)
for slug in train_heads.HEADS:
    train.command(slug)(train_heads.command(slug))
train.command("uncomp")(train_uncomp.uncomp)
train.command("vl-jepa")(train_vl_jepa.vl_jepa)
train.command("learn2pd")(train_learn2pd.learn2pd)
train.command("llmlingua2")(train_llmlingua2.llmlingua2)
train.command("lv-rae")(train_lv_rae.lv_rae)
app.add_typer(train, name="train")
analyze = typer.Typer(help="Look into a model: what its layers and heads do with texts.", no_args_is_help=True)
analyze.command("agentic-mi")(analyze_agentic_mi.agentic_mi)
analyze.command("attention-entropy")(analyze_attention_entropy.attention_entropy)
analyze.command("concepts")(analyze_concepts.concepts)
analyze.command("infomec")(analyze_infomec.infomec)
analyze.command("long-context")(analyze_long_context.long_context)
analyze.command("markov")(analyze_markov.markov)
analyze.command("matrix-entropy")(analyze_matrix_entropy.matrix_entropy)
analyze.command("open-ended")(analyze_open_ended.open_ended)
analyze.command("private-inference")(analyze_private_inference.private_inference)
analyze.command("sae")(analyze_concepts.sae)
analyze.command("visual-entropy")(analyze_visual_entropy.visual_entropy)
app.add_typer(analyze, name="analyze")


@app.callback(invoke_without_command=True)
def _version(version: bool = typer.Option(False, "--version", help="Print the version and leave.")) -> None:
    if version:
        from szilard import __version__

        print(f"szilard {__version__}")
        raise typer.Exit()


_INTERRUPTED = 130
_STOPPED = "szilard: interrupted"
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG)
_TORCH_CANNOT_WRITE = ("basic_ios::clear: iostream error", "[enforce fail at inline_container.cc")


def main(arguments: list[str] | None = None) -> int:
    """Entry point: runs a command and returns its exit code."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # offline it tells every retry; we tell the outcome
    logging.getLogger("PIL").setLevel(logging.CRITICAL)  # of damaged pictures it tells details beside the error
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        code = int(app(arguments, standalone_mode=False) or 0)
        if code == _INTERRUPTED:  # how newer versions of typer tell of Ctrl-C
            print(_STOPPED, file=sys.stderr)
        return code
    except (typer.Abort, KeyboardInterrupt):
        print(_STOPPED, file=sys.stderr)
        return _INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except typer.Exit as stop:
        return int(stop.exit_code)
    except Exception as error:
        if type(error).__module__.startswith(("click", "typer")) and hasattr(error, "show"):
            error.show()
            return int(getattr(error, "exit_code", 2))
        if os.environ.get("SZILARD_DEBUG"):
            raise
        if isinstance(error, (ValueError, TypeError)):
            print(f"szilard: {' '.join(str(error).split())}", file=sys.stderr)
            return 2
        if (told := _of_the_disk(error)) is not None:
            print(f"szilard: {told}", file=sys.stderr)
            return 2
        reason = (str(error).strip().splitlines() or [""])[0]
        print(
            f"szilard: something broke that should not have: {type(error).__name__}: {reason} "
            "(set SZILARD_DEBUG=1 to see where)",
            file=sys.stderr,
        )
        return 1


def _of_the_disk(error: Exception) -> str | None:
    """What to say of a disk that is full or closed; None: it was something else."""
    full = os.strerror(errno.ENOSPC)
    if isinstance(error, OSError) and error.errno in _DISK:
        named = f"{str(error.filename)!r} cannot be read or written" if error.filename else "a file cannot be written"
        return f"{named} ({error.strerror}): mend that, and give the command again."
    if full in str(error) or str(error).startswith(_TORCH_CANNOT_WRITE):  # of libraries that wrap the system's error
        return f"a file cannot be written ({full}): make room, and give the command again."
    return None


def run() -> None:
    """The console script."""
    sys.exit(main())


if __name__ == "__main__":
    run()
