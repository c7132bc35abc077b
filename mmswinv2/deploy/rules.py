"""Which models can be exported, and the metadata that a program needs to run the file."""

from typing import Any

from ..errors import UserError
from .classifiers import Classifier, Recognizer, Segmentor
from .detectors import SingleStage, TwoStage
from .graph import Graph

RULES: dict[str, type[Graph]] = {  # class of the model: class of the graph
    'ImageClassifier': Classifier,
    'Recognizer3D': Recognizer,
    'EncoderDecoder': Segmentor,
    'RetinaNet': SingleStage,
    'FasterRCNN': TwoStage,
    'MaskRCNN': TwoStage,
    'CascadeRCNN': TwoStage,
    'HybridTaskCascade': TwoStage,
}
_SIZES = (
    *('Resize', 'ResizeEdge', 'CenterCrop', 'ThreeCrop', 'FiveCrop', 'TenCrop'),
    *('SampleFrames', 'UniformSample'),
)
_LOADING = (  # steps that any program does itself: reading files and ordering the axes
    *('LoadImageFromFile', 'LoadImage', 'LoadAnnotations', 'FormatShape'),
    *('VideoInit', 'VideoDecode', 'DecordInit', 'DecordDecode', 'PyAVInit', 'PyAVDecode'),
    *('OpenCVInit', 'OpenCVDecode', 'RawFrameDecode', 'PIMSInit', 'PIMSDecode'),
    *('PackInputs', 'PackDetInputs', 'PackSegInputs', 'PackActionInputs'),
)


def graph_of(model: Any, normalized: bool = False) -> Graph:
    """The module to export for a host's model; see `Graph`.

    Raises `UserError` if there is no rule for its class, or for a part of it.
    """
    from ..core import SwinV2

    name = type(model).__name__
    if name not in RULES:
        raise UserError(f'{name} has no export rule; {", ".join(RULES)} have')
    if not isinstance(getattr(model, 'backbone', None), SwinV2):
        raise UserError(f'{name} has no backbone of mmswinv2 to export')
    return RULES[name](model, normalized)


def about(graph: Graph, cfg: Any, meta: dict[str, Any]) -> dict[str, Any]:
    """Metadata written into the file: task, classes, and how pictures are loaded and resized.

    The test pipeline of `cfg` defines the resizing; `meta` has the names of the classes.

    Raises:
        UserError: if the test pipeline does more than load and resize, or loads other channels.
    """
    from .. import hosts

    pipeline, sizes = hosts.testing_pipeline(cfg), []
    load, channels = pipeline[0] if pipeline else {}, graph.model.backbone.in_channels
    gray = str(load.get('color_type')).startswith('grayscale') or load.get('channels') == 1
    if gray and channels > 1:  # mmseg repeats them
        raise UserError(
            f'{hosts.type_name(load)} loads gray pictures, and the model takes {channels} channels'
            f"; load them by dict(type='mmswinv2.LoadImage', channels={channels}), which repeats "
            'them, as the file does not'
        )
    for step in pipeline:
        name = hosts.type_name(step)
        if name in _SIZES:
            sizes.append({**step, 'type': name})
        elif name == 'LoadImage' and step.get('scale'):
            raise UserError(
                'scale of LoadImage in the test pipeline is not written into the file, which takes '
                'numbers from 0 to 255; whoever runs it would leave it out'
            )
        elif name not in _LOADING:
            raise UserError(
                f'{name} of the test pipeline is not written into the file, and whoever runs it '
                "would leave it out; normalize and pad by the model's data_preprocessor, and bring "
                f'pictures to size by {", ".join(_SIZES)}'
            )
    return dict(
        graph.about(),
        classes=[str(name) for name in meta.get('classes') or ()],
        exif_orientation=not hosts.loads_as_stored(pipeline),
        sizes=sizes,
    )
