# ImageNet-1K with the augmentation of the authors' code (RandAugment m9, n2, mstd 0.5; erasing
# 0.25; Mixup, CutMix and label smoothing are the model's). Tested on the central 256 of 292 pixels.
data_root = 'data/imagenet/'
data_preprocessor = dict(
    num_classes=1000,
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    to_rgb=True,
)

load_image = dict(type='LoadImageFromFile')
flip = dict(type='RandomFlip', prob=0.5, direction='horizontal')
rand_augment = dict(
    type='RandAugment',
    policies='timm_increasing',
    num_policies=2,
    total_level=10,
    magnitude_level=9,
    magnitude_std=0.5,
    hparams=dict(pad_val=[104, 116, 124], interpolation='bicubic'),
)
erase = dict(
    type='RandomErasing',
    erase_prob=0.25,
    mode='rand',
    min_area_ratio=0.02,
    max_area_ratio=1 / 3,
    fill_color=[103.53, 116.28, 123.675],
    fill_std=[57.375, 57.12, 58.395],
)
pack = dict(type='PackInputs')
train_pipeline = [
    load_image,
    dict(type='RandomResizedCrop', scale=256, backend='pillow', interpolation='bicubic'),
    flip,
    rand_augment,
    erase,
    pack,
]
test_pipeline = [
    load_image,
    dict(type='ResizeEdge', scale=292, edge='short', backend='pillow', interpolation='bicubic'),
    dict(type='CenterCrop', crop_size=256),
    pack,
]
train_dataloader = dict(
    batch_size=64,
    num_workers=5,
    persistent_workers=True,
    drop_last=True,  # the authors' code
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(type='ImageNet', data_root=data_root, split='train', pipeline=train_pipeline),
)
val_dataloader = dict(
    batch_size=64,
    num_workers=5,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='ImageNet', data_root=data_root, split='val', pipeline=test_pipeline),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='Accuracy', topk=(1, 5))
test_evaluator = val_evaluator
