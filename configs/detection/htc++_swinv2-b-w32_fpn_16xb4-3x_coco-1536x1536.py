# HTC++, SwinV2-B, window 32, 1536x1536: the recipe of the paper's system-level comparison.
# Expected: the paper gives results of L and G only. Measured: not reproduced here.
# NNODES=2 NODE_RANK=... MASTER_ADDR=... tools/dist_train.sh CONFIG 8; semantic maps: docs/data.md.
_base_ = [
    '../_base_/models/htc++_swinv2_fpn.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/htc++_3x.py',
    '../_base_/default_runtime_det.py',
]

image_size = (1536, 1536)
model = dict(
    data_preprocessor=dict(
        batch_augments=[
            dict(type='BatchFixedSizePad', size=image_size, pad_mask=True, pad_seg=True)
        ]
    )
)

train_pipeline = [
    {{_base_.load_image}},
    dict(type='mmswinv2.InstaBoost'),  # its options are not given in the paper
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True, with_seg=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='RandomResize', scale=image_size, ratio_range=(0.1, 2.0), keep_ratio=True),
    dict(
        type='RandomCrop',
        crop_type='absolute',
        crop_size=image_size,
        recompute_bbox=True,
        allow_negative_crop=True,
    ),
    dict(type='FilterAnnotations', min_gt_bbox_wh=(1e-2, 1e-2)),
    dict(type='PackDetInputs'),
]
# Not given in the paper: the longer side; here in the ratio of COCO's usual 1333 to 800
test_pipeline = [
    {{_base_.load_image}},
    dict(type='Resize', scale=(1833, 1100), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    {{_base_.pack_for_test}},
]
train_dataloader = dict(
    batch_size=4,  # on 16 GPUs
    dataset=dict(data_prefix=dict(seg='stuffthingmaps/train2017/'), pipeline=train_pipeline),
)
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
