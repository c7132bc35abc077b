# UperNet, SwinV2-nano, from scratch on drawn shapes: `make demo-seg`. Minutes on two CPU cores.
#   python tools/dataset_converters/make_shapes.py data/shapes
#   python tools/train.py configs/segmentation/swinv2-nano_upernet_shapes.py
_base_ = [
    '../_base_/models/upernet_swinv2-nano.py',
    '../_base_/datasets/shapes_semantic.py',
    '../_base_/schedules/nano.py',
    '../_base_/default_runtime_seg.py',
]

model = dict(
    data_preprocessor=dict(size=(128, 128)),
    decode_head=dict(num_classes=7),
    auxiliary_head=dict(num_classes=7),
)
default_hooks = dict(checkpoint=dict(interval=325))
