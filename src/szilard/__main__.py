"""`python -m szilard` is the command line."""

from szilard.cli.main import run

run()
