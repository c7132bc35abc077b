# As imagenet_256.py, but tested on the whole image resized to a square (TEST.CROP False in the
# authors' config).
_base_ = 'imagenet_256.py'

train_pipeline = [
    {{_base_.load_image}},
    dict(type='RandomResizedCrop', scale=384, backend='pillow', interpolation='bicubic'),
    {{_base_.flip}},
    {{_base_.rand_augment}},
    {{_base_.erase}},
    {{_base_.pack}},
]
test_pipeline = [
    {{_base_.load_image}},
    dict(type='Resize', scale=(384, 384), backend='pillow', interpolation='bicubic'),
    {{_base_.pack}},
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
