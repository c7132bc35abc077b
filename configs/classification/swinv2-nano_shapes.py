# SwinV2-nano from scratch on cut-out shapes: `make demo-cls`. Minutes on two CPU cores.
#   python tools/dataset_converters/make_shapes.py data/shapes
#   python tools/dataset_converters/coco_to_folders.py data/shapes data/shapes-cut
#   python tools/train.py configs/classification/swinv2-nano_shapes.py
_base_ = [
    '../_base_/models/swinv2_classifier.py',
    '../_base_/schedules/nano.py',
    '../_base_/default_runtime_cls.py',
]

model = dict(
    backbone=dict(arch='nano', drop_path_rate=0.05),
    head=dict(num_classes=4, in_channels=256),
    train_cfg=None,
)
data_root = 'data/shapes-cut/'
data_preprocessor = dict(
    num_classes=4,
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    to_rgb=True,
)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(64, 64)),
    dict(
        type='RandomFlip', prob=[0.25, 0.25, 0.25], direction=['horizontal', 'vertical', 'diagonal']
    ),
    dict(type='PackInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(64, 64)),
    dict(type='PackInputs'),
]
train_dataloader = dict(
    batch_size=32,
    num_workers=0,
    sampler=dict(type='InfiniteSampler'),
    dataset=dict(
        type='CustomDataset', data_root=data_root, data_prefix='train2017', pipeline=train_pipeline
    ),
)
val_dataloader = dict(
    batch_size=32,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='CustomDataset', data_root=data_root, data_prefix='val2017', pipeline=test_pipeline
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='Accuracy', topk=(1, 2))
test_evaluator = val_evaluator
default_hooks = dict(
    logger=dict(log_metric_by_epoch=False),
    checkpoint=dict(by_epoch=False, interval=325),
)
log_processor = dict(by_epoch=False)
