"""Matrix products and convolutions in int8, by onnxruntime's static quantization."""

import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from .graph import quiet
from .runtime import FileModel, inputs_of


def quantize(file: FileModel, samples: Sequence[Any]) -> bytes:
    """Quantize a model to int8 with QuantizeLinear and DequantizeLinear; returns ONNX content.

    Samples of the host's pipeline calibrate the ranges of activations.

    Raises:
        UserError: if a detector finds nothing in the pictures.
    """
    import onnx
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Pictures(CalibrationDataReader):
        def __init__(self) -> None:
            self.inputs = _inputs(samples, file.task)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.inputs, None)

    found = (len(file.run(**inputs).get('boxes', [0])) for inputs in _inputs(samples, file.task))
    if not any(found):
        raise UserError(
            'the model finds nothing in the pictures for --int8, and its mask head has no ranges '
            'without boxes; give pictures with objects that it finds'
        )
    model = onnx.load_from_string(file.content)
    # OpenVINO 2026.4 computes the patch embedding wrongly in int8; it is a small part of the work
    embedding = [
        node.name for node in model.graph.node if any('patch_embed' in name for name in node.input)
    ]
    # onnxruntime would log advice to pre-process the model, which torch's exporter has done
    with tempfile.TemporaryDirectory() as folder, quiet('root'):
        path = Path(folder) / 'int8.onnx'
        quantize_static(
            model,
            path,
            Pictures(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=['Conv', 'MatMul', 'Gemm'],
            nodes_to_exclude=embedding,
            per_channel=True,
            weight_type=QuantType.QInt8,
            activation_type=QuantType.QUInt8,
            extra_options=dict(MatMulConstBOnly=True),  # attention scores stay in float32
        )
        return path.read_bytes()


def _inputs(samples: Sequence[Any], task: str) -> Iterator[dict[str, np.ndarray]]:
    return (inputs_of(sample['inputs'], sample['data_samples'], task) for sample in samples)


def milliseconds(file: FileModel, sample: Any, runs: int = 5) -> float:
    """Median time of some runs on one picture, after one run to warm up."""
    (inputs,) = _inputs([sample], file.task)
    times = []
    for _ in range(runs + 1):
        start = time.perf_counter()
        file.run(**inputs)
        times.append(1000 * (time.perf_counter() - start))
    return float(np.median(times[1:]))
