"""Export of a model to an ONNX file: the parts that all kinds of models share."""

import contextlib
import copy
import json
import logging
import warnings
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx.experimental import _config

from ..errors import UserError, needed
from .attention import use_operator

_LARGEST = 2**31 - 2**24  # bytes of weights; protobuf limits a file to 2 GiB
_FITS_ONE_SIZE = 'the model has no export rule: a part of it fits pictures of one size only'


class Graph(nn.Module):
    """Base of modules that are exported: a host's model as a function of tensors.

    Args:
        model: a model of a host; parts that cannot be exported are replaced in a copy of it.
        normalized: whether input pictures are already normalized by mean and standard deviation.
    """

    task: str  #: what the model does
    outputs: tuple[str, ...]  #: names of the outputs of `forward`
    axes = {0: 'B', 2: 'H', 3: 'W'}  # noqa: RUF012  of the picture, that may have any size

    def __init__(self, model: Any, normalized: bool = False) -> None:
        super().__init__()
        self.model = copy.deepcopy(model).eval()
        for name, module in list(self.model.named_modules()):
            if isinstance(module, nn.AdaptiveAvgPool2d) and module.output_size != 1:
                as_given: Any = module.output_size
                self.model.set_submodule(name, AveragePool(as_given))
        use_operator(self.model)
        channels = self.model.backbone.in_channels
        self.pixels = Preprocessing(self.model.data_preprocessor, channels, normalized)

    def example(self) -> dict[str, Tensor]:
        """Example inputs by name, for tracing; their sizes are those of `picture_size`."""
        net, noise = self.model.backbone, torch.Generator().manual_seed(0)
        shape = 2, net.in_channels, *picture_size(net)
        return dict(image=255 * torch.rand(shape, generator=noise))

    def sizes(self) -> dict[str, Any]:
        """The axes of any size of each input, for `torch.export`'s ``dynamic_shapes``."""
        return dict(image={place: torch.export.Dim(name) for place, name in self.axes.items()})

    def about(self) -> dict[str, Any]:
        """Metadata that a program needs to run the file."""
        return dict(self.pixels.about(), task=self.task, channels=self.model.backbone.in_channels)


class Preprocessing(nn.Module):
    """Normalization and padding, as a host's data preprocessor does them at test time.

    Args:
        preprocessor: the host's data preprocessor.
        channels: how many the pictures have; hosts reverse the order of three alone.
        normalized: whether pictures are already normalized; they are always padded here, because
            boxes are clipped to the picture without its padding.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, preprocessor: Any, channels: int, normalized: bool) -> None:
        super().__init__()
        of_host = getattr(preprocessor, 'mean', None)
        mean = torch.zeros(1) if of_host is None else of_host.detach().float().flatten()
        std = torch.ones(1) if of_host is None else preprocessor.std.detach().float().flatten()
        self.normalized = normalized
        turns = (getattr(preprocessor, name, False) for name in ('_channel_conversion', 'to_rgb'))
        self.turned = channels == 3 and any(turns)
        self.register_buffer('mean', mean)
        self.register_buffer('std', std)
        test = getattr(preprocessor, 'test_cfg', None) or {}
        self.size = test.get('size')
        self.divisor = test.get('size_divisor') or getattr(preprocessor, 'pad_size_divisor', 1) or 1
        pad_value = getattr(preprocessor, 'pad_value', getattr(preprocessor, 'pad_val', 0))
        self.pad_value = float(pad_value or 0)

    def forward(self, image: Tensor) -> Tensor:
        """Normalize and pad pictures ``(B, C, ..., H, W)``."""
        if not self.normalized:
            if self.turned:
                image = image.flip(1)
            shape = (1, -1, *(1,) * (image.ndim - 2))
            image = (image - self.mean.view(shape)) / self.std.view(shape)
        sides = image.shape[-2:]
        if self.size is not None:
            pad = [torch.sym_max(n - own, 0) for n, own in zip(self.size, sides, strict=True)]
        elif self.divisor > 1:
            # in this form, torch infers that sizes of all maps are multiples of one number
            up = self.divisor - 1
            pad = [(n + up) // self.divisor * self.divisor - n for n in sides]
        else:
            return image
        return F.pad(image, (0, pad[1], 0, pad[0]), value=self.pad_value)

    def about(self) -> dict[str, Any]:
        """How a caller must prepare pictures."""
        return dict(
            normalized=self.normalized,
            reversed_channels=self.turned,  # with `normalized`, the caller must reverse them
            mean=self.mean.tolist(),
            std=self.std.tolist(),
        )


class AveragePool(nn.Module):
    """`nn.AdaptiveAvgPool2d` as two matrix products; ONNX lacks it for dynamic input sizes.

    Args:
        size: height and width of the output, or both as one number.
    """

    def __init__(self, size: int | tuple[int, int]) -> None:
        super().__init__()
        self.size = (size, size) if isinstance(size, int) else tuple(size)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` to ``(B, C, *size)``."""
        rows, columns = (
            self._weights(n, k, x) for n, k in zip(x.shape[2:], self.size, strict=True)
        )
        return rows @ x @ columns.T

    @staticmethod
    def _weights(n: int, cells: int, like: Tensor) -> Tensor:
        """``(cells, n)``: cell i is the mean from floor(i n / cells) to ceil((i + 1) n / cells)."""
        cell = torch.arange(cells, device=like.device)[:, None]
        place = torch.arange(n, device=like.device)
        inside = (place >= cell * n // cells) & (place < ((cell + 1) * n + cells - 1) // cells)
        weights = inside.to(like.dtype)
        return weights / weights.sum(1, keepdim=True)


def total_stride(backbone: Any) -> list[int]:
    """Pixels of the input, along each axis, in a token of the backbone's last map."""
    strides = list(backbone.patch_embed.patch_size)
    for stage in backbone.layers:
        if stage.downsample:
            strides = [n * m for n, m in zip(strides, stage.downsample.stride, strict=True)]
    return strides


def picture_size(backbone: Any) -> list[int]:
    """Input sizes for which even the backbone's last map is more than two windows wide."""
    windows = backbone.window_size[-1]
    return [2 * m * n + 1 for m, n in zip(windows, total_stride(backbone), strict=True)]


def write_onnx(
    graph: nn.Module,
    example: Mapping[str, Tensor],
    sizes: Mapping[str, Any],
    outputs: list[str],
    about: Mapping[str, Any] | None = None,
) -> bytes:
    """Trace a graph and return the content of an ONNX file.

    The example inputs have several windows along each axis of each map, and torch is set not to
    specialize on their sizes (``backed_size_oblivious``), so that the graph also holds for a single
    window.

    Args:
        graph: a module with tensors as inputs and outputs.
        example: inputs by name.
        sizes: of each input, its axes of any size, or ``None``.
        outputs: names of the outputs.
        about: metadata for the file, written as JSON.

    Raises:
        UserError: if the weights are too large for a file, or the graph would not hold for other
            sizes than those of the example.
    """
    needed('onnxscript', 'export', 'onnx onnxscript')
    size = sum(t.numel() * t.element_size() for t in (*graph.parameters(), *graph.buffers()))
    if size >= _LARGEST:
        raise UserError(
            f'the weights take {size / 2**30:.1f} GiB, and a file of ONNX holds less than 2; '
            'export a smaller model'
        )
    try:
        proto = _translate(graph, example, sizes, outputs)
    except (torch._dynamo.exc.UserError, torch.onnx.OnnxExporterError) as error:
        why = str(error.__cause__ or error).strip().splitlines()[0]
        raise UserError(
            'the model has no export rule: a part of it needs pictures of one size, or an operator '
            f'that ONNX lacks ({why})'
        ) from error
    if about is not None:
        entry = proto.metadata_props.add()
        entry.key, entry.value = 'mmswinv2', json.dumps(about)
    content: bytes = proto.SerializeToString()
    return content


def _translate(
    graph: nn.Module, example: Mapping[str, Tensor], sizes: Mapping[str, Any], outputs: list[str]
) -> Any:
    """Trace a graph, and return it as a ``ModelProto`` of onnx; see `write_onnx`."""
    from .translations import TRANSLATIONS

    inputs = tuple(example.values())
    symbols: Any = _config  # has `patch` once torch is imported
    with (
        torch.no_grad(),
        symbols.patch(backed_size_oblivious=True),
        warnings.catch_warnings(),
        quiet('torch.onnx', 'torch.onnx._internal.exporter._registration', 'onnx_ir'),
        contextlib.redirect_stdout(None),  # torch prints its progress
    ):
        warnings.simplefilter('ignore')  # from inside torch's exporter
        program = torch.export.export(
            graph, inputs, dynamic_shapes=tuple(sizes.values()), strict=False,
            prefer_deferred_runtime_asserts_over_guards=True,
        )  # fmt: skip
        _try_smaller(graph, program, example, sizes, outputs)
        exported = torch.onnx.export(
            program, inputs, dynamo=True, opset_version=20, input_names=list(example),
            output_names=outputs, custom_translation_table=TRANSLATIONS,
        )  # fmt: skip
    assert exported is not None
    return exported.model_proto


def _try_smaller(
    graph: nn.Module, program: Any, example: Mapping[str, Tensor], sizes: Mapping[str, Any],
    outputs: list[str],
) -> None:  # fmt: skip
    """Compare the traced `program` with its graph at other sizes; its maps have several cells.

    What Python decided by a size of the example is fixed in the program, and torch does not tell.
    Its assertions are left out, as in ONNX: most are of the kind that a map has several windows.
    """
    smaller = []
    for name, x in example.items():
        for axis in sizes[name] or ():
            x = x.narrow(axis, 0, min(-(-x.shape[axis] * 3 // 4), 333))
        smaller.append(x)
    module = program.module()
    for node in list(module.graph.nodes):
        if 'assert_scalar' in str(node.target) or node.target == '_guards_fn':
            module.graph.erase_node(node)
    module.recompile()
    try:
        found = module(*smaller)
    except RuntimeError as error:
        raise UserError(f'{_FITS_ONE_SIZE} ({str(error).splitlines()[0]})') from error
    if 'boxes' not in outputs:  # boxes of nearly equal scores may come in another order
        share = max(map(_share_that_differs, found, graph(*smaller)))
        if share > 0.002:  # more than labels where two classes have nearly equal scores
            raise UserError(f'{_FITS_ONE_SIZE} ({share:.1%} of its output differs at another size)')


def _share_that_differs(found: Tensor, wanted: Tensor) -> float:
    if found.shape != wanted.shape:
        return 1.0
    close = torch.isclose(found.double(), wanted.double(), rtol=1e-3, atol=1e-3)
    return 1 - close.double().mean().item()


@contextlib.contextmanager
def quiet(*names: str) -> Any:
    """Context in which the named loggers log only errors."""
    with contextlib.ExitStack() as stack:
        for logger in map(logging.getLogger, names):
            stack.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.ERROR)
        yield
