"""Line charts as plain SVG, without a library: what docs/benchmarks shows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape

WIDTH, HEIGHT = 720, 420
LEFT, RIGHT, TOP, BOTTOM = 64, 180, 40, 48
COLOURS = ("#c0392b", "#2471a3", "#1e8449", "#9a7d0a", "#7d3c98", "#566573", "#ca6f1e", "#117a65", "#873600", "#2e4053")

Points = Sequence[tuple[float, float]]


def line_chart(
    title: str,
    x_label: str,
    y_label: str,
    series: Mapping[str, Points],
    log_x: bool = False,
    log_y: bool = False,
) -> str:
    """One line a name; the first is drawn thicker. Logarithmic axes need values above 0."""
    xs = sorted({x for points in series.values() for x, _ in points})
    ys = [y for points in series.values() for _, y in points]
    place_x = _axis(min(xs), max(xs), LEFT, WIDTH - RIGHT, log_x)
    low, high = (min(ys), max(ys)) if log_y else (0.0, max(ys))
    ticks = _log_ticks(low, high) if log_y else _ticks(high)
    place_y = _axis(min(low, ticks[0]), max(high, ticks[-1]), HEIGHT - BOTTOM, TOP, log_y)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        _text(LEFT, 22, title, "start", 15),
        _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10, x_label),
        f'<g transform="rotate(-90 16 {HEIGHT / 2})">{_text(16, HEIGHT / 2, y_label)}</g>',
    ]
    for tick in ticks:
        y = place_y(tick)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(_text(LEFT - 6, y + 4, f"{tick:g}", "end"))
    parts += [_text(place_x(x), HEIGHT - BOTTOM + 18, f"{x:g}") for x in xs]
    last_label_y = -math.inf
    order = sorted(series, key=lambda name: place_y(series[name][-1][1]))
    for name in order:
        number = list(series).index(name)
        colour = COLOURS[number % len(COLOURS)]
        path = " ".join(f"{place_x(x):.1f},{place_y(y):.1f}" for x, y in series[name])
        parts.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{3 if number == 0 else 1.5}"/>'
        )
        last_label_y = max(place_y(series[name][-1][1]) + 4, last_label_y + 14)
        parts.append(_text(WIDTH - RIGHT + 8, last_label_y, name, "start", colour=colour))
    return "\n".join([*parts, "</svg>\n"])


def _axis(low: float, high: float, start: float, end: float, log: bool) -> Callable[[float], float]:
    def scale(value: float) -> float:
        return math.log10(value) if log else value

    span = scale(high) - scale(low) or 1.0
    return lambda value: start + (scale(value) - scale(low)) / span * (end - start)


def _ticks(high: float) -> list[float]:
    step = 10.0 ** math.floor(math.log10(high or 1.0))
    if high / step < 3:
        step /= 2
    return [step * n for n in range(math.ceil(high / step) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    return [10.0**n for n in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]


def _text(x: float, y: float, text: str, anchor: str = "middle", size: int = 12, colour: str = "#222") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{colour}">{escape(text)}</text>'
    )
