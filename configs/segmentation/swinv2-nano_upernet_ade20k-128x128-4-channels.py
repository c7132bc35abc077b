# The base config for 16-bit images of four channels, such as satellite images (red, green, blue,
# near infrared): settings for images that are not 8-bit RGB (docs/data.md). Not in the paper.
_base_ = 'swinv2-nano_upernet_ade20k-128x128.py'

load_image_16 = dict(type='mmswinv2.LoadImage', scale=(0, 65535), channels=4, to_float32=True)
load_image = dict(_delete_=True, **load_image_16)  # for configs that use this one as base
model = dict(
    # for each channel in the file's order, for values scaled to 0 to 255
    data_preprocessor=dict(
        mean=[123.675, 116.28, 103.53, 114.5], std=[58.395, 57.12, 57.375, 57.6], bgr_to_rgb=False
    ),
    backbone=dict(in_channels=4),
)

# without PhotoMetricDistortion, which takes only images of three channels
train_pipeline = [
    load_image_16,
    dict(type='LoadAnnotations'),
    dict(type='RandomResize', scale=(512, 128), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=(128, 128), cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    load_image_16,
    dict(type='Resize', scale=(512, 128), keep_ratio=True),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
tta_pipeline = [
    load_image_16,
    dict(
        type='TestTimeAug',
        transforms=[
            [
                dict(type='Resize', scale=(int(512 * r), int(128 * r)), keep_ratio=True)
                for r in (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
            ],
            [dict(type='RandomFlip', prob=0.0), dict(type='RandomFlip', prob=1.0)],
            [dict(type='LoadAnnotations')],
            [dict(type='PackSegInputs')],
        ],
    ),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline, img_suffix='.tif'))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline, img_suffix='.tif'))
test_dataloader = val_dataloader
