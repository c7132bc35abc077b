# ImageNet-22K (its release of 2011, 21,841 classes, a folder for each), at 192 pixels. There is no
# official split: val/ holds what you keep back.
_base_ = 'imagenet_256.py'

data_root = 'data/imagenet22k/'
data_preprocessor = dict(num_classes=21841)
train_pipeline = [
    {{_base_.load_image}},
    dict(type='RandomResizedCrop', scale=192, backend='pillow', interpolation='bicubic'),
    {{_base_.flip}},
    {{_base_.rand_augment}},
    {{_base_.erase}},
    {{_base_.pack}},
]
test_pipeline = [
    {{_base_.load_image}},
    dict(type='ResizeEdge', scale=219, edge='short', backend='pillow', interpolation='bicubic'),
    dict(type='CenterCrop', crop_size=192),
    {{_base_.pack}},
]
train_dataloader = dict(
    batch_size=128,
    dataset=dict(
        _delete_=True,
        type='CustomDataset',
        data_root=data_root,
        data_prefix='train',
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=128,
    dataset=dict(
        _delete_=True,
        type='CustomDataset',
        data_root=data_root,
        data_prefix='val',
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
