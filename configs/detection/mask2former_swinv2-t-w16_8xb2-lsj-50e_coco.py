# Mask2Former for instances, SwinV2-T, window 16: an example, with Mask2Former's recipe. Not in the
# paper. Expected: unknown. Measured: not reproduced here.
_base_ = [
    '../_base_/models/mask2former_swinv2.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/ablation_3x.py',
    '../_base_/default_runtime_det.py',
]

image_size = (1024, 1024)
max_iters = 368750  # 50 epochs of 118k images at batch 16
interval = 5000

model = dict(
    data_preprocessor=dict(
        batch_augments=[dict(type='BatchFixedSizePad', size=image_size, pad_mask=True)]
    )
)
train_pipeline = [
    {{_base_.load_image}},
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='RandomResize', scale=image_size, ratio_range=(0.1, 2.0), keep_ratio=True),
    dict(
        type='RandomCrop',
        crop_type='absolute',
        crop_size=image_size,
        recompute_bbox=True,
        allow_negative_crop=True,
    ),
    dict(type='FilterAnnotations', min_gt_bbox_wh=(1e-5, 1e-5), by_mask=True),
    dict(type='PackDetInputs'),
]
train_dataloader = dict(sampler=dict(type='InfiniteSampler'), dataset=dict(pipeline=train_pipeline))

new_embedding = dict(lr_mult=1.0, decay_mult=0.0)
optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys=dict(
            backbone=dict(lr_mult=0.1),
            query_embed=new_embedding,
            query_feat=new_embedding,
            level_embed=new_embedding,
        )
    ),
    clip_grad=dict(max_norm=0.01, norm_type=2),
)
train_cfg = dict(
    _delete_=True, type='IterBasedTrainLoop', max_iters=max_iters, val_interval=interval
)
param_scheduler = [
    dict(
        type='MultiStepLR',
        by_epoch=False,
        begin=0,
        end=max_iters,
        milestones=[327778, 355092],
        gamma=0.1,
    ),
]
log_processor = dict(by_epoch=False)
default_hooks = dict(
    logger=dict(log_metric_by_epoch=False),
    checkpoint=dict(by_epoch=False, interval=interval),
)
