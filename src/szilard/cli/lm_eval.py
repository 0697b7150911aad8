"""`szilard lm-eval`: the command line of EleutherAI's harness, with szilard as its model."""

from __future__ import annotations

import importlib.util
import sys

import typer


def lm_eval_command(context: typer.Context) -> None:
    """Run lm-evaluation-harness; all arguments are its own (--tasks, --model_args, ...)."""
    if importlib.util.find_spec("lm_eval") is None:
        raise ValueError("lm-evaluation-harness is not installed: pip install 'szilard[eval]'.")
    from szilard.evaluation.lm_eval import main

    arguments = list(context.args)
    if not any(argument.split("=")[0] in ("--model", "-M") for argument in arguments):
        arguments = ["--model", "szilard", *arguments]
    sys.argv = ["lm_eval", *arguments]
    main()
