"""The rooms of the library import one another in one direction, as docs/architecture.md draws them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

_FILE = Path(__file__).parent.parent / "benchmarks" / "import_graph.py"


def test_no_room_imports_one_above_it() -> None:
    spec = importlib.util.spec_from_file_location("import_graph", _FILE)
    assert spec is not None and spec.loader is not None
    graph = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(graph)
    found = graph.edges()
    rooms = {path.name for path in graph.SOURCE.iterdir() if (path / "__init__.py").is_file()}
    assert rooms == {room for layer in graph.LAYERS for room in layer}
    assert found["engines", "decoding"] > 5
    assert graph.against_the_order(found) == []
