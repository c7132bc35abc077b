"""Find operators of a graph that TensorRT lacks, by its published list, without running TensorRT.

The tables are those of TensorRT 10.0: https://github.com/onnx/onnx-tensorrt, file
``docs/operators.md``. Operators outside ONNX's own domain need a plug-in.
"""

from collections.abc import Iterator, Mapping
from typing import Any

_OF_TYPES = {  # F: float32, I: int32 and int64, B: bool
    'F': """
        Acos Acosh Asin Asinh Atan Atanh AveragePool BatchNormalization Ceil Celu Clip
        ConstantOfShape Conv ConvTranspose Cos Cosh CumSum Dropout Einsum Elu Erf Exp Floor GRU Gemm
        GlobalAveragePool GlobalLpPool GlobalMaxPool GridSample GroupNormalization HardSigmoid
        HardSwish Hardmax ImageScaler InstanceNormalization IsInf LRN LSTM LayerNormalization
        LeakyRelu Log LogSoftmax LpNormalization LpPool MatMul MaxPool MeanVarianceNormalization
        Mish NonMaxSuppression NonZero PRelu ParametricSoftplus Pow QuantizeLinear RNN RandomNormal
        RandomNormalLike RandomUniform RandomUniformLike Reciprocal Resize RoiAlign Round ScaledTanh
        Scan Selu Sigmoid Sin Sinh Softmax Softplus Softsign Sqrt Tan Tanh ThresholdedRelu Upsample
    """,
    'FI': """
        Abs Add ArgMax ArgMin DepthToSpace Div Equal Gelu Greater GreaterOrEqual IsNaN Less
        LessOrEqual Max Mean Min Mod Mul Neg Pad Range ReduceL1 ReduceL2 ReduceLogSum
        ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu
        Scatter ScatterElements ScatterND Shrink Sign SpaceToDepth Sub Sum TopK
    """,
    'FIB': """
        Cast CastLike Concat Constant Expand EyeLike Flatten Gather GatherElements GatherND Identity
        If Loop OneHot Reshape ReverseSequence Shape Size Slice Split Squeeze Tile Transpose Trilu
        Unsqueeze Where
    """,
    'B': 'And Not Or Xor',
}
SUPPORTED = {name: types for types, names in _OF_TYPES.items() for name in names.split()}
_KINDS = dict(FLOAT='F', INT32='I', INT64='I', BOOL='B')
_AXES = {'CumSum': 1, 'Pad': 3, 'Slice': 3, 'Squeeze': 1, 'Unsqueeze': 1}  # must be constants
_AXES |= {name: 1 for name in SUPPORTED if name.startswith('Reduce')}


def unsupported(content: bytes) -> list[str]:
    """Sorted operators of an ONNX file that TensorRT lacks, or has for other inputs only."""
    import onnx

    model = onnx.shape_inference.infer_shapes(onnx.load_from_string(content))
    return sorted(
        {
            f'{node.domain}::{node.op_type}' if node.domain else f'{node.op_type}{words}'
            for node, words in _found(model.graph, {}, set())
        }
    )


def _found(graph: Any, types: Mapping[str, int], fixed: set[str]) -> Iterator[tuple[Any, str]]:
    """Unsupported nodes of a graph, its branches and loops, each with words that say why.

    Args:
        graph: a ``GraphProto`` of onnx.
        types: element types of values of the enclosing graph.
        fixed: names of constants of the enclosing graph.
    """
    from onnx import TensorProto

    values = (*graph.input, *graph.output, *graph.value_info)
    types = {**types, **{value.name: value.type.tensor_type.elem_type for value in values}}
    types.update((tensor.name, tensor.data_type) for tensor in graph.initializer)
    constants = {node.output[0] for node in graph.node if node.op_type == 'Constant'}
    fixed = fixed | constants | {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField('g'):
                yield from _found(attribute.g, types, fixed)
        if node.domain not in ('', 'ai.onnx') or node.op_type not in SUPPORTED:
            yield node, ''
            continue
        kind = TensorProto.DataType.Name(types.get(_typed(node), 0))
        if kind != 'UNDEFINED' and _KINDS.get(kind, kind) not in SUPPORTED[node.op_type]:
            yield node, f' of {kind}'
        place = _AXES.get(node.op_type, len(node.input))
        if not fixed.issuperset(name for name in node.input[place : place + 1] if name):
            yield node, ' with axes that are computed'


def _typed(node: Any) -> str:
    """Name of the value whose element type TensorRT's list restricts."""
    if node.op_type in ('Constant', 'ConstantOfShape', 'Loop', 'If'):
        return str(node.output[0])
    place = int(node.op_type == 'Where')
    return ''.join(node.input[place : place + 1])  # RandomNormal has no inputs
