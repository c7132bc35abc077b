# UperNet, SwinV2-nano, from scratch on drawn shapes: `make demo-seg`. Minutes on two CPU cores.
#   python tools/dataset_converters/make_shapes.py data/shapes-large --train 800 --size 96 --large
#   python tools/train.py configs/segmentation/swinv2-nano_upernet_shapes.py
_base_ = [
    '../_base_/models/upernet_swinv2-nano.py',
    '../_base_/datasets/shapes_semantic.py',
    '../_base_/schedules/nano.py',
    '../_base_/default_runtime_seg.py',
]

max_iters = 1900
# Most pixels are stuff, so classes are weighted. mmseg 1.2.2 supports that only if every pixel has
# a class, so training images are resized to one size instead of padded.
class_weight = [4.0, 4.0, 4.0, 4.0, 1.0, 1.0, 1.0]
head = dict(num_classes=7, dropout_ratio=0.0, loss_decode=dict(class_weight=class_weight))
model = dict(
    data_preprocessor=dict(size=(96, 96)),
    backbone=dict(drop_path_rate=0.0),
    decode_head=dict(channels=48, **head),
    auxiliary_head=head,
    # crops as in training: a network from scratch has not learned larger windows
    test_cfg=dict(mode='slide', crop_size=(96, 96), stride=(32, 32)),
)
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=50, end=max_iters, eta_min=1e-5),
]
optim_wrapper = dict(optimizer=dict(lr=2e-3))
default_hooks = dict(checkpoint=dict(interval=500))
