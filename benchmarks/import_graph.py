"""The rooms of src/szilard and who imports whom, as a picture: docs/pictures/import-graph.svg.

    python benchmarks/import_graph.py

Only imports that run when a module is imported count: not those of type checkers, and not those inside functions. An arrow
points from who imports to what is imported; thicker: by more modules; red: against the order of the layers.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
SOURCE, PICTURE = ROOT / "src" / "szilard", ROOT / "docs" / "pictures" / "import-graph.svg"
LAYERS = (
    ("cli", "server"),
    ("reasoning", "speculative", "representation", "codecs", "analysis"),
    ("evaluation", "compression"),
    ("attention", "diffusion"),
    ("training",),
    ("sessions",),
    ("engines",),
    ("decoding",),
    ("information",),
)
WIDTH, ROW, BOX = 960, 104, (128, 40)


def edges() -> Counter[tuple[str, str]]:
    """(room, imported room) -> modules of the first that import the second when they are imported."""
    found: Counter[tuple[str, str]] = Counter()
    rooms = {room for layer in LAYERS for room in layer}
    for file in SOURCE.rglob("*.py"):
        room = file.relative_to(SOURCE).parts[0]
        if room in rooms:
            asked = {name.split(".")[1] for name in _imported(ast.parse(file.read_text(encoding="utf-8")))}
            for other in (asked & rooms) - {room}:
                found[room, other] += 1
    return found


def against_the_order(found: Counter[tuple[str, str]]) -> list[tuple[str, str]]:
    """Edges to a layer above, and both of two rooms of a layer that import each other."""
    depth = {room: row for row, layer in enumerate(LAYERS) for room in layer}
    return [
        (one, other)
        for one, other in found
        if depth[other] < depth[one] or (depth[other] == depth[one] and (other, one) in found)
    ]


def _imported(node: ast.AST) -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        if isinstance(child, ast.ImportFrom) and (child.module or "").startswith("szilard."):
            yield str(child.module)
        elif isinstance(child, ast.ImportFrom) and child.module == "szilard":
            yield from (f"szilard.{name.name}" for name in child.names)
        elif isinstance(child, ast.Import):
            yield from (name.name for name in child.names if name.name.startswith("szilard."))
        yield from _imported(child)


def picture(found: Counter[tuple[str, str]]) -> str:
    """As SVG."""
    place = {}
    for row, layer in enumerate(LAYERS):
        for column, room in enumerate(layer):
            place[room] = (WIDTH * (column + 1) / (len(layer) + 1), 40 + ROW * row)
    depth = {room: row for row, layer in enumerate(LAYERS) for room in layer}
    height = 80 + ROW * (len(LAYERS) - 1)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" '
        'font-family="system-ui, sans-serif" font-size="14">',
        '<defs><marker id="a" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto" '
        'markerUnits="userSpaceOnUse"><path d="M0 0L8 4L0 8z" fill="#6b6878"/></marker></defs>',
        f'<rect width="{WIDTH}" height="{height}" rx="8" fill="#ffffff"/>',
    ]
    red = against_the_order(found)
    for (one, other), count in sorted(found.items(), key=lambda item: item[0] in red):
        upward = (one, other) in red
        (x, y), (to_x, to_y) = place[one], place[other]
        down = 1 if to_y > y else -1 if to_y < y else 0
        y, to_y = y + down * BOX[1] / 2, to_y - down * BOX[1] / 2
        if not down:
            side = 1 if to_x > x else -1
            x, to_x = x + side * BOX[0] / 2, to_x - side * BOX[0] / 2
        rows = depth[other] - depth[one]
        bend = (
            26 if upward else 60 + 60 * rows if rows > 1 and abs(to_x - x) < BOX[0] / 2 else 0
        )  # round the boxes between
        colour = "#c0392b" if upward else "#6b6878"
        parts.append(
            f'<path d="M{x:.0f} {y:.0f}Q{(x + to_x) / 2 + bend:.0f} {(y + to_y) / 2 - bend / 2:.0f} {to_x:.0f} {to_y:.0f}" '
            f'fill="none" stroke="{colour}" stroke-width="{min(5, 0.6 + 0.35 * count**0.7):.1f}" '
            f'opacity="{0.95 if upward else 0.55}" marker-end="url(#a)"><title>{one} imports {other}: {count} modules</title></path>'
        )
    for room, (x, y) in place.items():
        parts.append(
            f'<rect x="{x - BOX[0] / 2:.0f}" y="{y - BOX[1] / 2:.0f}" width="{BOX[0]}" height="{BOX[1]}" rx="7" fill="#f3f1fb" '
            f'stroke="#3d2b6b"/><text x="{x:.0f}" y="{y + 5:.0f}" text-anchor="middle" fill="#1c1b22">{room}</text>'
        )
    return "\n".join([*parts, "</svg>\n"])


if __name__ == "__main__":
    PICTURE.write_text(picture(edges()), encoding="utf-8")
    print(f"wrote {PICTURE}")
