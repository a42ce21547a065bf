"""One workload as bars in SVG: the median of each contestant, its p90 as a thin line, on a logarithmic scale."""

from __future__ import annotations

import math
from typing import Any
from xml.sax.saxutils import escape

__all__ = ["bars"]

WIDTH, LEFT, RIGHT, ROW, TOP = 760, 230, 90, 24, 46
OURS, OTHERS, INK = "#2a7f62", "#9aa5b1", "#22272e"


def bars(workload: dict[str, Any]) -> str:
    """The picture; who was fastest stands first."""
    more = workload["better"] == "higher"
    rows = sorted(workload["contestants"].items(), key=lambda row: row[1]["median"], reverse=more)
    figures = [max(row[key], 1e-6) for _, row in rows for key in ("median", "p90")] or [1.0]
    low = math.floor(math.log10(min(figures)))
    high = max(math.log10(max(figures)), low + 1)

    def x(value: float) -> float:
        share = (math.log10(max(value, 1e-6)) - low) / (high - low)
        return LEFT + max(share, 0.004) * (WIDTH - LEFT - RIGHT)

    height = TOP + ROW * len(rows) + 26
    title = f"{workload['name']}, {workload['unit']}{', more is better' if more else ''}"
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" '
           f'font-size="12" fill="{INK}"><rect width="{WIDTH}" height="{height}" fill="#fff"/>',
           f'<text x="12" y="24" font-size="15" font-weight="bold">{escape(title)}</text>']  # fmt: skip
    bottom = TOP + ROW * len(rows)
    for power in range(low, math.floor(high) + 1):
        at = x(10.0**power)
        out.append(f'<line x1="{at:.1f}" y1="{TOP - 6}" x2="{at:.1f}" y2="{bottom}" stroke="#e3e6ea"/>')
        out.append(f'<text x="{at:.1f}" y="{bottom + 16}" text-anchor="middle" font-size="10">{10.0**power:g}</text>')
    for number, (name, row) in enumerate(rows):
        y = TOP + ROW * number
        end, far = x(row["median"]), x(row["p90"])
        colour = OURS if name in workload["ours"] else OTHERS
        out.append(f'<text x="{LEFT - 8}" y="{y + 14}" text-anchor="end">{escape(name)}</text>')
        out.append(f'<rect x="{LEFT}" y="{y + 3}" width="{end - LEFT:.1f}" height="{ROW - 9}" fill="{colour}"/>')
        out.append(f'<line x1="{end:.1f}" y1="{y + 10}" x2="{far:.1f}" y2="{y + 10}" stroke="{INK}"/>')
        out.append(f'<text x="{max(end, far) + 6:.1f}" y="{y + 14}">{row["median"]:.3g}</text>')
    return "\n".join([*out, "</svg>", ""])
