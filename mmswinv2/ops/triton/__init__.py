"""The operators as Triton kernels, on NVIDIA's GPUs.

Triton is imported only once a tensor is on a GPU that the kernels support.
"""

import warnings
from functools import cache
from importlib.util import find_spec
from subprocess import SubprocessError

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from ..modes import PLAIN, is_transformed
from ..windows import WindowGrid

_KINDS = (*PLAIN, FakeTensor)
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_WIDEST_HEAD = 128


def runs_on(device: torch.device) -> bool:
    """Whether the kernels run on a device: NVIDIA GPUs from Ampere on, with Triton installed.

    AMD GPUs use torch's operators, as the kernels are untested there.
    """
    return _runs_on(device)


# what torch.compiler.assume_constant_result does; that imports torch.compile's whole machinery
runs_on._dynamo_marked_constant = True  # type: ignore[attr-defined]


@cache
def _runs_on(device: torch.device) -> bool:
    return (
        device.type == 'cuda'
        and torch.version.hip is None
        and find_spec('triton') is not None
        and torch.cuda.get_device_capability(device) >= (8, 0)
        and driver_starts()
    )


def driver_starts() -> bool:
    """Whether Triton can be used: at first use it compiles a part of its driver in C.

    Warns if that fails, mostly because a C compiler or Python's headers are missing.
    """
    from triton.runtime import driver

    try:
        driver.active.utils  # noqa: B018  # made by the access
    except (RuntimeError, OSError, AssertionError, SubprocessError) as error:
        warnings.warn(
            f"Triton cannot be used ({error}); torch's operators are, which are slower. Triton "
            "needs a C compiler and Python's headers (apt install gcc python3-dev)",
            RuntimeWarning,
            stacklevel=2,
        )
        return False
    return True


def _fits(*tensors: Tensor) -> bool:
    """Plain tensors where the kernels run, outside of `torch.jit.trace` and `torch.func`."""
    return (
        runs_on(tensors[0].device)
        and not is_transformed()
        and all(type(t) in _KINDS and t.dtype in _DTYPES and t.numel() > 0 for t in tensors)
    )


def fits_attend(qkv: Tensor, table: Tensor, scale: Tensor, dropout: float) -> bool:
    """Heads of up to 128 channels, maps of up to three axes."""
    width = qkv.shape[-1] // 3 // table.shape[0]
    fits = _fits(qkv, table, scale) and table.dtype == torch.float32
    return fits and width <= _WIDEST_HEAD and qkv.ndim <= 5


def attend(
    qkv: Tensor,
    grid: WindowGrid,
    table: Tensor,
    scale: Tensor,
    dropout: float = 0.0,
    windows_at_once: int | None = None,
) -> Tensor:
    """See `mmswinv2.ops.attend`; `windows_at_once` is ignored, as no scores are stored."""
    from . import attention

    return attention.attend(qkv, grid, table, scale, dropout)


def fits_add_norm(x: Tensor, y: Tensor, weight: Tensor) -> bool:
    """Branch and residual stream of one shape, whose sum has the dtype of `x`."""
    sum_dtype = torch.promote_types(x.dtype, weight.dtype)
    return _fits(x, y, weight) and sum_dtype == x.dtype and x.shape == y.shape


def add_norm(
    x: Tensor,
    y: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    scale: Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    """See `mmswinv2.ops.add_norm`."""
    from . import norm

    return norm.add_norm(x, y, weight, bias, eps, scale, dtype)


def fits_position_bias(*weights: Tensor) -> bool:
    """Windows of up to three axes, and up to 128 heads, as one program holds all of them."""
    return _fits(*weights) and weights[0].shape[1] <= 3 and weights[2].shape[0] <= 128


def position_bias(
    w1: Tensor, b1: Tensor, w2: Tensor, window: tuple[int, ...], pretrained: tuple[int, ...]
) -> Tensor:
    """See `mmswinv2.ops.position_bias`."""
    from . import bias_mlp

    return bias_mlp.position_bias(w1, b1, w2, window, pretrained)
