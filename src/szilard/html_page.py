"""Self-contained HTML pages: one head and one set of colours for all; nothing is fetched, and only our script runs."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from html import escape

_FIELD = re.compile(r"\{\{(\w+)\}\}")
_SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)
_HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="{{policy}}">
<meta name="generator" content="szilard">
<link rel="icon" href="data:,">
<title>{{title}}</title>
<style>
:root { --page: #fbfbfa; --card: #fff; --line: #e4e3df; --ink: #1d1d1f; --soft: #6c6b67; --accent: #6d4fd8;
  --sans: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Noto Sans", sans-serif;
  --mono: ui-monospace, "SF Mono", "Cascadia Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
@media (prefers-color-scheme: dark) { :root { --page: #131316; --card: #1b1b1f; --line: #303036; --ink: #ececee;
  --soft: #9c9ca4; --accent: #a993ff; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 var(--sans); }
"""


def page(template: str, title: str, values: Mapping[str, str]) -> str:
    """A whole document.

    Args:
        template: begins with the page's own CSS, then `</style></head><body>...`; `{{names}}` are filled in; a script
            in it is allowed by its hash, so nothing may be filled into it.
        title: of the browser's tab; escaped here.
        values: by name; escaped by the caller.
    """
    script = _SCRIPT.search(template)
    policy = "default-src 'none'; style-src 'unsafe-inline'; "
    if script is not None:
        policy += f"script-src 'sha256-{base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()}'; "
    policy += "img-src data:"
    return filled(_HEAD, {"title": escape(title), "policy": policy}) + filled(template, values)


def filled(template: str, values: Mapping[str, str]) -> str:
    """A template with {{names}} filled in, in one pass: what is filled in is not searched."""
    return _FIELD.sub(lambda match: values[match[1]], template)
