"""Decoding methods, the state they act on, and what they leave behind: trace and cost."""

from szilard.decoding.cost import Cost, ModelSize
from szilard.decoding.method import Method
from szilard.decoding.recorder import TraceRecorder
from szilard.decoding.state import DecodingState
from szilard.decoding.trace import Trace, TraceStep

__all__ = ["Cost", "DecodingState", "Method", "ModelSize", "Trace", "TraceRecorder", "TraceStep"]
