"""Cache and attention methods: what a layer reads, keeps or runs. Each is a context manager on a stock model.

with szilard.SnapKv(budget=256)(model) as run:
    model.generate(**inputs)
run.summary()
"""

from szilard.attention.method import AttentionMethod

__all__ = ["AttentionMethod"]
