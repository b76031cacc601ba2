"""The loss curve as SVG, for a page that needs nothing beside it."""

from __future__ import annotations

from collections.abc import Sequence

WIDTH, HEIGHT, MARGIN = 720, 240, 44
MOST_POINTS = 2000  # of one curve; beyond, every n-th value is drawn


def running_mean(values: Sequence[float], width: int) -> list[float]:
    """Returns at each place the mean of the last `width` values up to it."""
    sums = [0.0]
    for value in values:
        sums.append(sums[-1] + value)
    return [(sums[i + 1] - sums[max(0, i + 1 - width)]) / min(width, i + 1) for i in range(len(values))]


def curve(values: Sequence[float], top: float, style: str) -> str:
    """Returns one line over the whole chart, 0 at the bottom and `top` at the top."""
    every = -(-len(values) // MOST_POINTS)
    across, down = (WIDTH - 2 * MARGIN) / max(1, len(values) - 1), (HEIGHT - 2 * MARGIN) / top
    points = ((MARGIN + across * i, HEIGHT - MARGIN - down * values[i]) for i in range(0, len(values), every))
    dots = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{dots}" fill="none" {style}/>'


def label(x: float, y: float, anchor: str, text: str) -> str:
    """Returns a text of the chart; `anchor` is "start", "middle" or "end"."""
    return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}">{text}</text>'


def draw(losses: Sequence[float]) -> str:
    """Returns the loss over the steps: each step's, which jumps with the timesteps drawn, and a running mean."""
    if not losses:
        return "<p>No step was done.</p>"
    width = max(1, len(losses) // 20)
    top, bottom, right = max(losses) or 1.0, HEIGHT - MARGIN, WIDTH - MARGIN
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="100%" font-size="12" role="img" aria-label="loss">',
        f'<path d="M{MARGIN} {MARGIN}V{bottom}H{right}" fill="none" stroke="#999"/>',
        curve(losses, top, 'stroke="#ccc"'),
        curve(running_mean(losses, width), top, 'stroke="#1f5fbf" stroke-width="2"'),
        label(MARGIN - 4, MARGIN + 4, "end", f"{top:.3f}"),
        label(MARGIN - 4, bottom + 4, "end", "0"),
        label(MARGIN, bottom + 18, "start", "step 1"),
        label(right, bottom + 18, "end", f"{len(losses)}"),
        label(WIDTH / 2, bottom + 36, "middle", f"grey: each step; blue: mean of {width} steps"),
        "</svg>",
    ]
    return "".join(parts)
