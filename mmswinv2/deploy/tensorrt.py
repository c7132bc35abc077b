"""Which operators of a graph TensorRT lacks. It is not run here.

The table is of TensorRT 10.0: https://github.com/onnx/onnx-tensorrt, file ``docs/operators.md``.
Operators of other domains than ONNX's own have no support without a plug-in.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

SUPPORTED = frozenset(
    """
    Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool
    BatchNormalization Cast CastLike Ceil Celu Clip Concat Constant ConstantOfShape Conv
    ConvTranspose Cos Cosh CumSum DepthToSpace DequantizeLinear Div Dropout Einsum Elu Equal
    Erf Exp Expand EyeLike Flatten Floor GRU Gather GatherElements GatherND Gelu Gemm
    GlobalAveragePool GlobalLpPool GlobalMaxPool Greater GreaterOrEqual GridSample
    GroupNormalization HardSigmoid HardSwish Hardmax Identity If ImageScaler
    InstanceNormalization IsInf IsNaN LRN LSTM LayerNormalization LeakyRelu Less LessOrEqual
    Log LogSoftmax Loop LpNormalization LpPool MatMul Max MaxPool Mean
    MeanVarianceNormalization Min Mish Mod Mul Neg NonMaxSuppression NonZero Not OneHot Or
    PRelu Pad ParametricSoftplus Pow QuantizeLinear RNN RandomNormal RandomNormalLike
    RandomUniform RandomUniformLike Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum
    ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu
    Reshape Resize ReverseSequence RoiAlign Round ScaledTanh Scan Scatter ScatterElements
    ScatterND Selu Shape Shrink Sigmoid Sign Sin Sinh Size Slice Softmax Softplus Softsign
    SpaceToDepth Split Sqrt Squeeze Sub Sum Tan Tanh ThresholdedRelu Tile TopK Transpose
    Trilu Unsqueeze Upsample Where Xor
    """.split()  # noqa: SIM905
)


def unsupported(content: bytes) -> list[str]:
    """Names of operators in an ONNX file that TensorRT lacks, in order."""
    import onnx

    model = onnx.load_from_string(content)
    functions = {(f.domain, f.name) for f in model.functions}
    nodes = [*model.graph.node, *(node for f in model.functions for node in f.node)]
    return sorted(
        {
            f'{node.domain}::{node.op_type}' if node.domain else node.op_type
            for node in _all(nodes)
            if (node.domain, node.op_type) not in functions
            and (node.domain not in ('', 'ai.onnx') or node.op_type not in SUPPORTED)
        }
    )


def _all(nodes: Any) -> Iterator[Any]:
    """Nodes and those of their branches and loops."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            if attribute.HasField('g'):
                yield from _all(attribute.g.node)
