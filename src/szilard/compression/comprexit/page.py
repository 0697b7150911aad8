"""What ComprExIT did with a context, as one HTML file: each token's gates over layers, and the plan of every window.

The page loads nothing and runs nothing: the heat maps are inline PNGs, one cell a pixel, whose only colour is laid on
by opacity, so that they fit a light and a dark page. Hovering a token tells its numbers.
"""

from __future__ import annotations

import base64
import struct
import zlib
from typing import Any

import torch

from szilard.compression.comprexit.diagnostics import plan_rank, slot_rank
from szilard.decoding.page import _attribute, _inline
from szilard.decoding.visible_text import named_hidden
from szilard.engines.prepared_context import SoftPrompt
from szilard.html_page import page

_INK = (109, 79, 216)
_ROW, _COLUMN = 17, 9  # pixels of a token's row and of a layer's or slot's column
_NAMED = 3  # layers and slots that a token's hover names


def render_page(soft: SoftPrompt, tokenizer: Any, *, title: str = "ComprExIT") -> str:
    """One HTML document about a compressed context; write it with UTF-8 encoding.

    Args:
        soft: of ComprExIT.
        tokenizer: of its model.
        title: heading of the page.

    Raises:
        ValueError: a soft prompt without gates and plans: of another compressor, or a context left as it was.
    """
    trace = soft.trace
    if missing := {"tokens", "gates", "plan", "capacity", "places", "valid", "pooled"} - set(trace):
        raise ValueError(
            f"this soft prompt, made by {soft.method}, has no {', '.join(sorted(missing))} in its trace to draw: "
            "compress the context with comprexit."
        )
    gates, plan, valid = trace["gates"].float(), trace["plan"].float(), trace["valid"]
    share = plan / plan.sum(-2, keepdim=True).clamp(min=1e-9)  # of each slot, [windows, W, K_w]
    texts = tokenizer.batch_decode([[token] for token in trace["tokens"].tolist()])
    windows = [
        _window(number, trace["places"][number], texts, gates, share[number], trace["capacity"][number], valid)
        for number in range(len(plan))
    ]
    facts = {
        "tokens": str(soft.original_tokens),
        "positions": str(soft.positions),
        "gate entropy, mean": f"{torch.special.entr(gates).sum(-1).mean():.2f} nats",
        "effective rank of a plan": f"{plan_rank(plan).mean():.1f} of {plan.shape[-1]}",
        "effective rank of all slots": f"{slot_rank(trace['pooled'].float()):.1f} of {soft.positions}",
    }
    values = {
        "heading": _inline(title),
        "facts": "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts.items()),
        "layers": _bars(gates.mean(0)),
        "gate": f"{gates.max():.2f}",
        "share": f"{share.max():.2f}",
        "windows": "\n".join(windows),
    }
    return page(_PAGE, named_hidden(title), values)


def _window(
    number: int,
    places: torch.Tensor,
    texts: list[str],
    gates: torch.Tensor,
    share: torch.Tensor,
    capacity: torch.Tensor,
    valid: torch.Tensor,
) -> str:
    inside = places >= 0
    tokens, chosen = places[inside], valid[number]
    first_slot = int(valid[:number].sum()) + 1
    rows = []
    for place, token in zip(inside.nonzero()[:, 0].tolist(), tokens.tolist(), strict=True):
        layers = gates[token].topk(min(_NAMED, gates.shape[1]))
        goes = _largest(share[place, chosen])
        told = "layers " + ", ".join(f"{i}: {v:.2f}" for v, i in zip(*map(torch.Tensor.tolist, layers), strict=True))
        told += "; of slots " + ", ".join(f"{first_slot + i}: {v:.2f}" for v, i in goes)
        told += f"; capacity {float(capacity[place]) * len(tokens):.2f} times the even one"
        rows.append(f'<li title="{_attribute(told)}">{_inline(texts[token]) or "·"}</li>')
    last_slot = first_slot + int(chosen.sum()) - 1
    height = f"height:{_ROW * len(tokens)}px"
    maps = "".join(
        f'<img alt="{what}" style="width:{_COLUMN * cells.shape[1]}px;{height}" src="{_png(cells / top)}">'
        for what, cells, top in (
            ("gates over layers", gates[tokens], gates.max()),
            ("shares of slots", share[inside][:, chosen], share.max()),
        )
    )
    return (
        f"<section><h2>Tokens {int(tokens[0]) + 1} to {int(tokens[-1]) + 1}, slots {first_slot} to {last_slot}</h2>"
        f'<div class="window"><ol>{"".join(rows)}</ol>{maps}</div></section>'
    )


def _largest(shares: torch.Tensor) -> list[tuple[float, int]]:
    """The slots of which a token is most, (share, slot of the window), at most so many as a hover names."""
    best = shares.topk(min(_NAMED, len(shares)))
    return list(zip(best.values.tolist(), best.indices.tolist(), strict=True))


def _bars(means: torch.Tensor) -> str:
    """The mean gate of every layer as inline SVG, one unit a layer."""
    tallest = float(means.max()) or 1.0
    shapes = "".join(
        f'<rect x="{layer + 0.1:g}" y="{100 - 100 * value / tallest:.1f}" width="0.8" '
        f'height="{100 * value / tallest:.1f}"><title>layer {layer}: {value:.3f}</title></rect>'
        for layer, value in enumerate(means.tolist())
    )
    return (
        f'<svg viewBox="0 0 {len(means)} 100" preserveAspectRatio="none" role="img" aria-label="mean gates">{shapes}'
        f"</svg><p>0 (embeddings) to {len(means) - 1} (behind the final norm); the tallest is {tallest:.3f}</p>"
    )


def _png(cells: torch.Tensor) -> str:
    """A picture of numbers in [0, 1], [rows, columns], as a data URI: one pixel each, the number its opacity."""
    rows, columns = cells.shape
    pixels = torch.tensor([*_INK, 0], dtype=torch.uint8).repeat(rows, columns, 1)
    pixels[..., 3] = (cells.clamp(0, 1) * 255).round().to(torch.uint8)
    lines = b"".join(b"\0" + line.numpy().tobytes() for line in pixels)  # each line unfiltered

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", columns, rows, 8, 6, 0, 0, 0)  # 8 bits, RGBA
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(data).decode()


_PAGE = """body { margin: 0 auto; max-width: 1200px; padding: 20px clamp(14px, 3vw, 36px) 40px; }
h1 { font-size: 19px; margin: 0 0 10px; overflow-wrap: anywhere; }
h2 { font-size: 13.5px; margin: 26px 0 8px; }
p, dt { color: var(--soft); font-size: 12.5px; margin: 4px 0 0; }
dl { display: flex; flex-wrap: wrap; gap: 6px 34px; margin: 0; }
dd { margin: 0; font-variant-numeric: tabular-nums; }
svg { width: 100%; max-width: 640px; height: 90px; display: block; border-bottom: 1px solid var(--line); }
rect { fill: var(--accent); }
.window { display: flex; gap: 14px; overflow-x: auto; background: var(--card); border: 1px solid var(--line);
  border-radius: 8px; padding: 12px; width: fit-content; max-width: 100%; }
ol { list-style: none; margin: 0; padding: 0; flex: none; max-width: 16em; }
li { height: 17px; font: 12px/17px var(--mono); white-space: pre;
  overflow: hidden; text-overflow: ellipsis; text-align: right; cursor: default; }
li:hover { color: var(--accent); }
img { flex: none; display: block; image-rendering: pixelated; outline: 1px solid var(--line); }
.code { font-size: 0.8em; color: var(--soft); }
</style>
</head>
<body>
<h1>{{heading}}</h1>
<dl>{{facts}}</dl>
<h2>Mean gate of every layer</h2>
{{layers}}
<p>Below, a row is a token. Left: its gates over the layers (full colour: {{gate}}). Right: how much of each slot it is
(full colour: {{share}}). Hover a token for its numbers.</p>
{{windows}}
</body>
</html>
"""
