# SimMIM for SwinV2-nano on the drawn shapes: `make demo-simmim`. Minutes on two CPU cores.
#   python tools/dataset_converters/make_shapes.py data/shapes
_base_ = [
    '../_base_/models/simmim_swinv2.py',
    '../_base_/datasets/imagenet_simmim_192.py',
    '../_base_/schedules/nano.py',
    '../_base_/default_runtime_cls.py',
]

model = dict(
    backbone=dict(arch='nano', window_size=8, drop_path_rate=0.0),
    neck=dict(in_channels=256, encoder_stride=32),
)
data_root = 'data/shapes/'
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomResizedCrop', scale=96, crop_ratio_range=(0.67, 1.0), backend='pillow'),
    dict(type='RandomFlip', prob=0.5),
    dict(
        type='SimMIMMaskGenerator',
        input_size=96,
        mask_patch_size=8,  # patches of 32 would give only 3 x 3 of them
        model_patch_size=4,
        mask_ratio=0.6,
    ),
    dict(type='PackInputs'),
]
train_dataloader = dict(
    batch_size=32,
    num_workers=0,
    persistent_workers=False,
    sampler=dict(type='InfiniteSampler'),
    dataset=dict(data_root=data_root, data_prefix='train2017', pipeline=train_pipeline),
)
val_cfg = None
test_cfg = None
default_hooks = dict(
    logger=dict(log_metric_by_epoch=False),
    checkpoint=dict(by_epoch=False, interval=650),
)
log_processor = dict(by_epoch=False)
