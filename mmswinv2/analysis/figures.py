"""Curves as SVG in data URIs; the only text in them is numbers and names of axes."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import UserError

# modeled on matplotlib's "tab10" without gray; the first color is for the main curve
_COLORS = (
    '#1f4e9c', '#d9641e', '#2a9134', '#b3261e', '#7b4fa8', '#8a5a44', '#d45fa8',
    '#9a9a00', '#109aa8',
)  # fmt: skip
_LARGEST = 1e30  # values beyond this, such as of a diverged loss, are not drawn


@dataclass
class Figure:
    """A picture of curves; title and legend are HTML, which shows all scripts and is escaped."""

    title: str
    data: str  # the picture, a data URI
    legend: list[tuple[str, str]]  # name and color of each curve


def check_ending(path: str) -> None:
    """Raise `UserError` if matplotlib cannot write files with the suffix of `path`."""
    from matplotlib.backend_bases import FigureCanvasBase

    known = sorted(FigureCanvasBase.get_supported_filetypes())
    if Path(path).suffix.lower().lstrip('.') not in ('', *known):
        raise UserError(f'--out {path}: names of pictures end in .{", .".join(known)}')


def draw(
    title: str,
    curves: Mapping[str, Sequence[tuple[float, float]]],
    axis: str,
    unit: bool = False,
) -> Figure:
    """Draw curves, points ``(x, y)`` by name; the first is bold.

    `axis` is the name of the horizontal axis; with `unit`, both axes go from 0 to 1.
    """
    import matplotlib
    from matplotlib.figure import Figure as Canvas

    style = {'svg.hashsalt': 'mmswinv2', 'font.size': 10, 'axes.edgecolor': '#8a919c'}
    with matplotlib.rc_context(style):
        figure = Canvas(figsize=(5.4, 3.1), layout='constrained')
        axes = figure.add_subplot()
        legend = []
        for i, (name, points) in enumerate(curves.items()):
            x, y = np.array(points, float).reshape(-1, 2).T
            y[~(np.abs(y) < _LARGEST)] = np.nan
            color = _COLORS[i % len(_COLORS)]
            dashed = '--' if i >= len(_COLORS) else '-'
            marker = 'o' if len(x) < 12 else None
            width = 1.3 if i else 2.2
            axes.plot(x, y, dashed, color=color, lw=width, marker=marker, ms=3.5)
            legend.append((name, color))
        axes.set_xlabel(axis)
        axes.spines[['top', 'right']].set_visible(False)
        axes.grid(color='#e3e6ea')
        if unit:
            axes.set(xlim=(0, 1.01), ylim=(0, 1.02))
        file = io.BytesIO()
        figure.savefig(file, format='svg', transparent=True, metadata={'Date': None})
    return Figure(title, data_uri('svg+xml', file), legend)


def heat_map(shares: np.ndarray) -> str:
    """A matrix of values from 0 to 1 as a heat map, a PNG in a data URI."""
    from PIL import Image

    white, dark = np.array([247, 249, 252.0]), np.array([31, 78, 156.0])
    colors = white + shares[..., None] ** 0.5 * (dark - white)
    image = Image.fromarray(colors.astype(np.uint8))
    scale = max(1, 720 // max(shares.shape))
    image = image.resize([side * scale for side in image.size], Image.Resampling.NEAREST)
    file = io.BytesIO()
    image.save(file, 'PNG')
    return data_uri('png', file)


def data_uri(kind: str, file: io.BytesIO) -> str:
    """A picture, of a kind such as ``'png'``, as a data URI."""
    return f'data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}'
