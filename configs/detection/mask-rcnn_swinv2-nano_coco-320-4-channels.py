# The base config for 16-bit images of four channels, such as satellite images (red, green, blue,
# near infrared): settings for images that are not 8-bit RGB (docs/data.md). Not in the paper.
_base_ = 'mask-rcnn_swinv2-nano_coco-320.py'

load_image_16 = dict(type='mmswinv2.LoadImage', scale=(0, 65535), channels=4, to_float32=True)
load_image = dict(_delete_=True, **load_image_16)  # for configs that use this one as base
model = dict(
    # for each channel in the file's order, for values scaled to 0 to 255
    data_preprocessor=dict(
        mean=[123.675, 116.28, 103.53, 114.5], std=[58.395, 57.12, 57.375, 57.6], bgr_to_rgb=False
    ),
    backbone=dict(in_channels=4),
)

train_pipeline = [
    load_image_16,
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='Resize', scale=(320, 320), keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    load_image_16,
    dict(type='Resize', scale=(320, 320), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    {{_base_.pack_for_test}},
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
