"""A block that is computed a few windows at a time, on CPUs.

The intermediate tensors of a few windows fit into the processor's caches, and their memory is
reused for the next windows. New memory for the whole map costs a page fault per 4 KiB, which can
take as long as a matrix product. In training only the block's input is kept for backward, and each
chunk is recomputed.
"""

from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise, product
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..core.attention import ContinuousPositionBias, WindowAttention
from ..core.block import MLP, Block, DropPath, Scales
from ..core.layers import LayerNorm, LoRALinear, is_plain
from ..ops import WindowGrid
from ..ops.modes import PLAIN, autocast_dtype, is_batched, is_eager, is_transformed

_TOKENS_PER_THREAD = 2048  # in a chunk; measured by python -m benchmarks.paths
_FASTER_FROM = 2**13  # tokens, in inference; measured by python -m benchmarks.paths
_KINDS = (
    WindowAttention, ContinuousPositionBias, MLP, DropPath, LayerNorm, LoRALinear, nn.Linear,
    nn.Dropout, nn.ReLU, nn.Identity,
)  # fmt: skip


class Chunk(NamedTuple):
    """A box of whole windows in a map."""

    box: tuple[slice, ...]  #: where it is in ``(B, *S, C)``
    grid: WindowGrid  #: its windows


class ChunkedBlock(Block):
    """A block that computes its map in chunks, wherever that gives the same result."""

    def forward(self, x: Tensor) -> Tensor:
        """``(B, *S, C) -> (B, *S, C)``."""
        if not self.fits(x):
            return super().forward(x)
        grid = self.grid(x)
        chunks = list(split_grid(len(x), grid, _TOKENS_PER_THREAD * torch.get_num_threads()))
        if len(chunks) == 1:
            return super().forward(x)
        scales = self.draw_scales(x)
        parameters = tuple(self.parameters())
        table = self.attn.table(grid)
        if torch.is_grad_enabled() and any(t.requires_grad for t in (x, table, *parameters)):
            return _Recomputed.apply(self, chunks, scales, x, table, *parameters)
        return self.compute_chunks(x, chunks, table, scales)

    def fits(self, x: Tensor) -> bool:
        """Whether chunks give the same result as the whole map, and no hook sees the difference.

        Not under torch.compile, tracing or function transforms, with dropout, where a hook or
        another layer has been put into the block, or in torch's older FSDP, which hides the
        parameters behind attributes.
        """
        return (
            x.device.type == 'cpu'
            and x.numel() > 0
            and type(x) in PLAIN
            and is_eager()
            and not any(m.training and m.p for m in self.modules() if isinstance(m, nn.Dropout))
            and not (self.attn.training and self.attn.attn_drop)
            and all(type(m) in _KINDS and is_plain(m, type(m)) for m in self.modules() if m != self)
            and isinstance(self.norm1, LayerNorm)
            and 'weight' not in vars(self.norm1)
            and isinstance(self.norm2, LayerNorm)
            and x.dtype == self.norm1.weight.dtype == self.norm2.weight.dtype
        )

    def compute_chunks(
        self, x: Tensor, chunks: list[Chunk], table: Tensor, scales: Scales
    ) -> Tensor:
        """Compute both branches, chunk by chunk."""
        out = torch.empty_like(x)
        for chunk in chunks:
            out[chunk.box] = self.compute_chunk(x[chunk.box].contiguous(), chunk, table, scales)
        return out

    def compute_chunk(self, tokens: Tensor, chunk: Chunk, table: Tensor, scales: Scales) -> Tensor:
        """Compute both branches for the tokens of one chunk; `scales` are those of all maps."""
        first, second = (s if s is None else s[chunk.box[0]] for s in scales)
        return self.compute(tokens, chunk.grid, table, (first, second))


class AutoBlock(ChunkedBlock):
    """A block that takes the fastest way: in chunks where they save time, else all at once."""

    def fits(self, x: Tensor) -> bool:
        """Whether chunks save time: on large maps, and not in training, which computes them twice.

        Frozen blocks are not in training. ``python -m benchmarks.paths`` measures the difference.
        """
        if torch.is_grad_enabled() and any(t.requires_grad for t in (x, *self.parameters())):
            return False
        # in this order: in a graph, a comparison of sizes would fix them
        return super().fits(x) and x.shape[:-1].numel() >= _FASTER_FROM


class _Recomputed(torch.autograd.Function):
    """Keeps only inputs and parameters for backward, which recomputes each chunk."""

    @staticmethod
    def forward(
        ctx: Any,
        block: ChunkedBlock,
        chunks: list[Chunk],
        scales: Scales,
        x: Tensor,
        table: Tensor,
        *parameters: Tensor,
    ) -> Tensor:
        ctx.block, ctx.chunks, ctx.scales = block, chunks, scales
        ctx.save_for_backward(x, table, *parameters)
        ctx.dtype = autocast_dtype(x)
        with _autocast(ctx.dtype):
            return block.compute_chunks(x, chunks, table, scales)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        # by create_graph=True, torch.vmap or is_grads_batched=True
        if torch.is_grad_enabled() or is_transformed() or is_batched(grad):
            with torch.enable_grad():
                return (None, None, None, *_differentiable_gradients(ctx, grad))
        x, *tensors = ctx.saved_tensors
        wants_x, *wants = ctx.needs_input_grad[3:]
        tensors = [t.detach().requires_grad_(w) for t, w in zip(tensors, wants, strict=True)]
        block = _with_parameters(ctx.block, tensors[1:])
        d_x = torch.empty_like(x) if wants_x else None
        wanted = [t for t in tensors if t.requires_grad]
        sums: dict[Tensor, Tensor] = {}  # in float32 or better
        for chunk in ctx.chunks:
            tokens = x[chunk.box].detach().clone().requires_grad_(wants_x)
            with torch.enable_grad(), _autocast(ctx.dtype):
                out = block.compute_chunk(tokens, chunk, tensors[0], ctx.scales)
            inputs = [*wanted, tokens] if wants_x else wanted
            grads = torch.autograd.grad(out, inputs, grad[chunk.box], allow_unused=True)
            if d_x is not None:
                d_x[chunk.box] = grads[-1]
            for t, d in zip(wanted, grads, strict=False):
                if d is not None:
                    d = d.to(torch.promote_types(d.dtype, torch.float32))  # summed over chunks
                    sums[t] = sums[t].add_(d) if t in sums else d
        gradients = (sums[t].to(t.dtype) if t in sums else None for t in tensors)
        return (None, None, None, d_x, *gradients)


def _differentiable_gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """The gradients of all tensors, with a graph for second derivatives."""
    # views, as the table depends on some of the parameters
    x, table, *parameters = (t.view_as(t) for t in ctx.saved_tensors)
    block = _with_parameters(ctx.block, parameters)
    with _autocast(ctx.dtype):
        out = block.compute_chunks(x, ctx.chunks, table, ctx.scales)
    inputs = (x, table, *parameters)
    wanted = [t for t, want in zip(inputs, ctx.needs_input_grad[3:], strict=True) if want]
    found = iter(torch.autograd.grad(out, wanted, grad, create_graph=True, allow_unused=True))
    return tuple(next(found) if want else None for want in ctx.needs_input_grad[3:])


def _with_parameters(module: nn.Module, parameters: Sequence[Tensor]) -> Any:
    """A copy of the modules with other parameters, in the order of ``module.parameters()``.

    `torch.func.functional_call` would put them into `module` temporarily, where other threads that
    share the module would see them.
    """
    new = dict(zip(map(id, module.parameters()), parameters, strict=True))

    def copy(module: nn.Module) -> Any:
        twin = object.__new__(type(module))
        twin.__dict__ = dict(module.__dict__)
        twin.__dict__['_parameters'] = {
            name: old if old is None else new[id(old)] for name, old in module._parameters.items()
        }
        twin.__dict__['_modules'] = {
            name: child if child is None else copy(child) for name, child in module._modules.items()
        }
        return twin

    return copy(module)


def _autocast(dtype: torch.dtype | None) -> torch.autocast:
    """Autocast as in the forward pass, without its cache, as cached casts have no gradient."""
    return torch.autocast('cpu', dtype, dtype is not None, cache_enabled=False)


def split_grid(batch: int, grid: WindowGrid, tokens: int) -> Iterator[Chunk]:
    """Split maps into boxes of whole windows.

    Args:
        batch: number of maps.
        grid: the windows of a map.
        tokens: maximum number of tokens in a box, unless a window has more.
    """
    sizes = [[m for m, count in runs for _ in range(count)] for runs in grid.runs]
    axes = [[1] * batch, *sizes]
    limits = []
    for i, axis in enumerate(axes):
        inner = torch.Size(map(sum, axes[i + 1 :])).numel()
        limits.append(max(tokens // inner, max(axis)))
        tokens //= min(limits[-1], sum(axis))
    pieces = [_pieces(axis, limit) for axis, limit in zip(axes, limits, strict=True)]
    for maps, *places in product(*pieces):
        size = tuple(place.stop - place.start for place in places)
        # a piece that begins with the border window of a shifted axis keeps its shift
        starts = zip(places, grid.shift, strict=True)
        shift = tuple(s if place.start == 0 else 0 for place, s in starts)
        yield Chunk((maps, *places), WindowGrid(size, grid.window, shift))


def _pieces(sizes: list[int], limit: int) -> list[slice]:
    """Cut an axis with windows of these sizes into pieces of whole windows, up to `limit` long."""
    ends = [0]
    for end, size in zip(accumulate(sizes), sizes, strict=True):
        if end - size > ends[-1] and end - ends[-1] > limit:
            ends.append(end - size)
    return [slice(*piece) for piece in pairwise([*ends, sum(sizes)])]
