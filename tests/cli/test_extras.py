"""The commands open without any extra: each asks for its packages when it needs them."""

import subprocess
import sys

import pytest

EXTRAS = "accelerate peft tensorboard lm_eval sklearn scipy pydmd onnx constriction pytorch_msssim bjontegaard PIL gguf"
PROGRAM = """
import sys
for name in {names!r}.split():
    sys.modules[name] = None
from szilard.cli.main import run
sys.argv = ["szilard", *{arguments!r}]
run()
"""


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["train", "--help"], 0, "koopman"),
        (["train", "sae", "--activations", "there", "-o", "here"], 2, "[train]"),
        (["train", "codec", "--data", "there", "-o", "here"], 2, "[train]"),
    ],
)
def test_commands_open_without_extras(arguments, code, said, tmp_path):
    program = PROGRAM.format(names=EXTRAS, arguments=arguments)
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert (found.returncode, said in found.stdout + found.stderr) == (code, True), found.stderr[-2000:]
