"""Engines: loaded models that can run, and the way from a name to one."""

from szilard.engines.engine import Engine
from szilard.engines.loading import load
from szilard.engines.result import Result
from szilard.engines.transformers_engine import TransformersEngine

__all__ = ["Engine", "Result", "TransformersEngine", "load"]
