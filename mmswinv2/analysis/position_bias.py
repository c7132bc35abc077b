"""Maps of the continuous position bias of a block (paper, section 3.3 and figure 4)."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..core.attention import ContinuousPositionBias


def find_biases(model: nn.Module) -> dict[tuple[int, int], ContinuousPositionBias]:
    """The bias networks of a model by stage and block, both from 0."""
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, ContinuousPositionBias):
            *_, stage, _, block, _, _ = name.split('.')  # layers.0.blocks.1.attn.cpb_mlp
            found[int(stage), int(block)] = module
    return found


def bias_maps(
    bias: ContinuousPositionBias, windows: Sequence[int], frames: int | None = None
) -> Iterator[tuple[str, Tensor]]:
    """Maps of the bias over all offsets in windows.

    Args:
        bias: the bias network of a block.
        windows: spatial sides M of windows, in tokens.
        frames: temporal window of a video network; ``None``: the pre-trained one.

    Yields:
        a title and the bias ``(h, 2M - 1, 2M - 1)``; for video, one for each temporal offset.
    """
    frames = frames or bias.pretrained_window[0]
    of_images = len(bias.pretrained_window) == 2
    for m in windows:
        with torch.no_grad():
            table = bias((m, m) if of_images else (frames, m, m)).cpu()
        if of_images:
            yield f'window {m}', table
            continue
        for offset in range(frames):
            yield f'window {frames}x{m}x{m}, {offset} tokens on', table[:, frames - 1 + offset]


def draw_bias(rows: Sequence[tuple[str, Tensor]], heads: Sequence[int]) -> Any:
    """Draw maps of `bias_maps`, a row for each and a column for each head.

    Returns a figure of matplotlib, not registered with pyplot.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.8 + 2.2 * len(heads), 2.4 * len(rows)), layout='compressed')
    axes = figure.subplots(len(rows), len(heads), squeeze=False)
    values = torch.cat([row[list(heads)].flatten() for _, row in rows])
    for number, (line, (title, row)) in enumerate(zip(axes, rows, strict=True)):
        for place, head in zip(line, heads, strict=True):
            edge = row.shape[-1] // 2 + 0.5
            image = place.imshow(
                row[head], vmin=values.min(), vmax=values.max(), extent=(-edge, edge, edge, -edge)
            )
            place.set_title('' if number else f'head {head}')
        line[0].set_ylabel(title)
    figure.colorbar(image, ax=axes)
    return figure
