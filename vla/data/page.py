"""Parts of a self-contained HTML page: no script, no network, equal input gives equal bytes."""

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape

import numpy as np
from jaxtyping import Int64, UInt8
from PIL import Image

PICTURE_SIDE = 160
STYLE = """
:root { color-scheme: light dark; --ink: #1d2530; --faint: #667085; --line: #e3e7ed; --page: #f6f7f9; --card: #fff;
  --accent: #3568d4; --good: #1c7c4a; --bad: #c0362c; --warn: #9a6700; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ee; --faint: #98a2b3; --line: #2e3642; --page: #12161c;
  --card: #1a2029; --accent: #7aa2f7; --good: #58c48b; --bad: #f2817a; --warn: #e0af54; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, -apple-system, "Segoe UI",
  "DejaVu Sans", sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 36px 24px 64px; }
h1 { font-size: 26px; margin: 0 0 4px; display: flex; align-items: center; gap: 12px; flex-wrap: wrap; }
h2 { font-size: 17px; margin: 0 0 12px; }
p { margin: 0 0 10px; } .faint { color: var(--faint); } code { font-size: 13px; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 18px 20px;
  margin-top: 18px; overflow-x: auto; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(102px, 1fr)); gap: 12px; margin-top: 18px; }
.figures div { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 12px 14px; }
.figures b { display: block; font-size: 20px; font-weight: 600; white-space: nowrap; }
.figures span { color: var(--faint); font-size: 13px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 600; font-size: 13px; color: var(--faint); padding: 4px 14px 6px 0;
  border-bottom: 1px solid var(--line); white-space: nowrap; }
td { padding: 6px 14px 6px 0; border-bottom: 1px solid var(--line); vertical-align: middle; }
tr:last-child td { border-bottom: 0; } td.number, th.number { text-align: right; white-space: nowrap; }
.pill { font-size: 12px; font-weight: 600; padding: 2px 10px; border-radius: 99px; border: 1px solid currentColor;
  white-space: nowrap; }
.good { color: var(--good); } .bad { color: var(--bad); } .warn { color: var(--warn); } .idle { color: var(--faint); }
svg { display: block; fill: var(--accent); } .band { fill: var(--faint); opacity: 0.18; }
td svg { margin: 2px 0; } .nowrap { white-space: nowrap; }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(300px, 1fr)); gap: 18px; }
figure { margin: 0; } figcaption { font-size: 13px; margin-bottom: 6px; }
.frames { display: flex; gap: 8px; flex-wrap: wrap; }
.frames span { font-size: 12px; color: var(--faint); display: block; }
.frames img { display: block; height: 120px; border-radius: 6px; image-rendering: pixelated; }
ul { margin: 0; padding-left: 18px; }
"""


def page(title: str, body: Iterable[str]) -> str:
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{escape(title)}</title>\n'
        f"<style>{STYLE}</style>\n</head>\n<body>\n<main>\n{chr(10).join(body)}\n</main>\n</body>\n</html>\n"
    )


def section(title: str, *parts: str) -> str:
    return f"<section>\n<h2>{escape(title)}</h2>\n{chr(10).join(parts)}\n</section>"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Cells are HTML; a head that starts with '#' makes a column of numbers."""
    kinds = [' class="number"' if name.startswith("#") else "" for name in head]
    top = "".join(f"<th{kind}>{escape(name.lstrip('#'))}</th>" for kind, name in zip(kinds, head, strict=True))
    lines = [
        "<tr>" + "".join(f"<td{kind}>{cell}</td>" for kind, cell in zip(kinds, row, strict=True)) + "</tr>"
        for row in rows
    ]
    return f"<table>\n<tr>{top}</tr>\n{chr(10).join(lines)}\n</table>"


def items(texts: Iterable[str]) -> str:
    """A list of plain texts."""
    return "<ul>" + "".join(f"<li>{escape(text)}</li>" for text in texts) + "</ul>"


def pill(text: str, mood: str) -> str:
    """`mood` is good, bad, warn or idle."""
    return f'<span class="pill {mood}">{escape(text)}</span>'


def bars(
    counts: Int64[np.ndarray, " n"],
    *,
    title: str,
    width: int = 180,
    height: int = 34,
    band: tuple[float, float] | None = None,
) -> str:
    """A histogram as a small drawing; heights grow with the square root, so that rare values stay visible.

    `band` shades a part of it, from and to as shares of the width.
    """
    top = max(float(np.sqrt(counts.max(initial=0))), 1.0)
    step = width / max(len(counts), 1)
    drawn = "".join(
        f'<rect x="{index * step:.2f}" y="{height - size:.2f}" width="{step * 0.86:.2f}" height="{size:.2f}"/>'
        for index, size in enumerate(np.sqrt(counts) / top * height)
        if size
    )
    if band:
        start, stop = (share * width for share in band)
        size = max(stop - start, 1.0)
        drawn = f'<rect class="band" x="{start:.2f}" y="0" width="{size:.2f}" height="{height}"/>{drawn}'
    return f'<svg width="{width}" height="{height}" role="img"><title>{escape(title)}</title>{drawn}</svg>'


def picture(pixels: UInt8[np.ndarray, "Y X 3"], *, label: str) -> str:
    """An image within the page, reduced where it is large."""
    image = Image.fromarray(pixels)
    image.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
    stream = io.BytesIO()
    image.save(stream, "PNG")
    data = base64.b64encode(stream.getvalue()).decode()
    return f'<img alt="{escape(label)}" src="data:image/png;base64,{data}">'
