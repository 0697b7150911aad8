"""The command line: one file per command, thin; `commands.py` joins them, and this one turns errors into exit codes.

0: done. 2: bad input, one sentence on stderr. 1: our fault.
"""

from __future__ import annotations

import errno
import logging
import os
import sys

import typer

from szilard.cli.commands import ANALYZE, COMMANDS, TRAIN, add_all

app = typer.Typer(
    name="szilard",
    help="Information-aware inference: measure the uncertainty, then spend the compute only where it is.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
add_all(app, COMMANDS)
train = typer.Typer(help="Fit the small part that a method needs for a model.", no_args_is_help=True)
add_all(train, TRAIN)
app.add_typer(train, name="train")
analyze = typer.Typer(help="Look into a model: what its layers and heads do with texts.", no_args_is_help=True)
add_all(analyze, ANALYZE)
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
            from szilard.cli.installing import as_installed

            print(f"szilard: {as_installed(' '.join(str(error).split()))}", file=sys.stderr)
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
