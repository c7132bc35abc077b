# UperNet, SwinV2-G, tested at 896 with window 56; no weight changes.
# Expected mIoU: 59.3 (paper). Measured: not reproduced here.
# tools/dist_test.sh configs/segmentation/swinv2-g-w56_upernet_test_ade20k-896x896.py CHECKPOINT 8
_base_ = 'swinv2-g-w40_upernet_32xb1-80k_ade20k-640x640.py'

model = dict(backbone=dict(window_size=[56, 56, 56, 28]))
test_pipeline = [
    {{_base_.load_image}},
    dict(type='Resize', scale=(3584, 896), keep_ratio=True),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
img_ratios = [0.5, 0.75, 1.0, 1.25, 1.5, 1.75]
tta_pipeline = [
    {{_base_.load_image}},
    dict(
        type='TestTimeAug',
        transforms=[
            [
                dict(type='Resize', scale=(int(3584 * r), int(896 * r)), keep_ratio=True)
                for r in img_ratios
            ],
            [dict(type='RandomFlip', prob=0.0), dict(type='RandomFlip', prob=1.0)],
            [dict(type='LoadAnnotations')],
            [dict(type='PackSegInputs')],
        ],
    ),
]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
