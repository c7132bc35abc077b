# UperNet, SwinV2-nano, ADE20K in crops of 192: for trying out data and tools without a GPU.
_base_ = [
    '../_base_/models/upernet_swinv2-nano.py',
    '../_base_/datasets/ade20k.py',
    '../_base_/schedules/nano.py',
    '../_base_/default_runtime_seg.py',
]

train_pipeline = [
    {{_base_.load_image}},
    dict(type='LoadAnnotations'),
    dict(type='RandomResize', scale=(768, 192), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=(192, 192), cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    {{_base_.load_image}},
    dict(type='Resize', scale=(768, 192), keep_ratio=True),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
model = dict(data_preprocessor=dict(size=(192, 192)))
train_dataloader = dict(batch_size=4, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
default_hooks = dict(checkpoint=dict(interval=325))
