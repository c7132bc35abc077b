# HTC++ without mask branch, SwinV2-G, window 32, on Objects365 v2: the paper's first stage of G.
# Expected: not given in the paper. Measured: not reproduced here. The weights of SwinV2-G were
# never released: set `checkpoint` to your own, pre-trained with window 12 at 192 pixels.
_base_ = ['htc++_swinv2-l-w32_fpn_16xb4-3x_coco-1536x1536.py', '../_base_/strategies/zero1.py']

max_iters = 67500
data_root = 'data/Objects365/Obj365_v2/'

model = dict(
    data_preprocessor=dict(pad_mask=False, pad_seg=False, batch_augments=None),
    backbone=dict(
        arch='giant',
        windows_at_once=[16, 16, None, None],  # the paper's first two stages; how many: not given
        init_cfg=dict(checkpoint='checkpoints/swinv2_giant_patch4_window12_192_22k-ext.pth'),
    ),
    neck=[
        dict(type='mmswinv2.GlobalSelfAttention', in_channels=4096),
        dict(type='FPN', in_channels=[512, 1024, 2048, 4096], out_channels=256, num_outs=5),
    ],
    roi_head=dict(
        # if interleaved, mmdet refines boxes between stages in the mask branch, missing here
        interleaved=False,
        bbox_head=[dict(head, num_classes=365) for head in _base_.model.roi_head.bbox_head],
        mask_head=None,
        mask_roi_extractor=None,
        semantic_roi_extractor=None,
        semantic_head=None,
    ),
)

# Not given in the paper: augmentation
train_pipeline = [
    {{_base_.load_image}},
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=(1024, 800), keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    {{_base_.load_image}},
    dict(type='Resize', scale=(1024, 800), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    {{_base_.pack_for_test}},
]
train_dataloader = dict(
    batch_size=1,  # on 96 GPUs
    sampler=dict(type='InfiniteSampler'),
    dataset=dict(
        type='Objects365V2Dataset',
        data_root=data_root,
        ann_file='annotations/zhiyuan_objv2_train.json',
        data_prefix=dict(_delete_=True, img='train/'),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    dataset=dict(
        type='Objects365V2Dataset',
        data_root=data_root,
        ann_file='annotations/zhiyuan_objv2_val.json',
        data_prefix=dict(img='val/'),
        pipeline=test_pipeline,
    )
)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/zhiyuan_objv2_val.json', metric='bbox')
test_evaluator = val_evaluator

optim_wrapper = dict(
    optimizer=dict(lr=1.2e-3),
    # a lower rate in the backbone and over its layers: not given in the paper
    paramwise_cfg=dict(_delete_=True, layer_decay_rate=1.0),
)
auto_scale_lr = dict(base_batch_size=96)
train_cfg = dict(
    _delete_=True, type='IterBasedTrainLoop', max_iters=max_iters, val_interval=max_iters
)
# Not given in the paper: warm-up and milestones, here at the same parts of the run as in 3x
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=1000),
    dict(
        type='MultiStepLR',
        by_epoch=False,
        begin=0,
        end=max_iters,
        milestones=[max_iters * 27 // 36, max_iters * 33 // 36],
        gamma=0.1,
    ),
]
log_processor = dict(by_epoch=False)
default_hooks = dict(
    logger=dict(log_metric_by_epoch=False),
    checkpoint=dict(by_epoch=False, interval=2500),
)
