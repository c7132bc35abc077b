# HTC++ without the semantic branch, for data that has no semantic maps. Not a model of the paper.
_base_ = 'htc++_swinv2-b-w32_fpn_16xb4-3x_coco-1536x1536.py'

model = dict(
    data_preprocessor=dict(
        pad_seg=False,
        batch_augments=[
            dict(type='BatchFixedSizePad', size={{_base_.image_size}}, pad_mask=True),
        ],
    ),
    roi_head=dict(semantic_roi_extractor=None, semantic_head=None),
)

train_pipeline = [
    {{_base_.load_image}},
    dict(type='mmswinv2.InstaBoost'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='RandomResize', scale={{_base_.image_size}}, ratio_range=(0.1, 2.0), keep_ratio=True),
    dict(
        type='RandomCrop',
        crop_type='absolute',
        crop_size={{_base_.image_size}},
        recompute_bbox=True,
        allow_negative_crop=True,
    ),
    dict(type='FilterAnnotations', min_gt_bbox_wh=(1e-2, 1e-2)),
    dict(type='PackDetInputs'),
]
train_dataloader = dict(
    dataset=dict(
        data_prefix=dict(_delete_=True, img='train2017/'),
        pipeline=train_pipeline,
    )
)
