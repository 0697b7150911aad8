"""Triton's interpreter runs its kernels on the CPU, if chosen before anything imports Triton; 0 tests them on a GPU."""

import os

os.environ.setdefault("TRITON_INTERPRET", "1")
