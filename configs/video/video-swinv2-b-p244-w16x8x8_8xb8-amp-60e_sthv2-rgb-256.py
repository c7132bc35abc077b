# Video-SwinV2-B on Something-Something v2, after Kinetics-400: an example of another data set, with
# Video Swin's recipe without its RandAugment and random erasing. Not in the paper.
# Expected top-1: unknown. Measured: not reproduced here.
# tools/dist_train.sh configs/video/video-swinv2-b-p244-w16x8x8_8xb8-amp-60e_sthv2-rgb-256.py 8
_base_ = 'video-swinv2-b-p244-w8x8x8_8xb8-amp-30e_kinetics400-rgb-256.py'

max_epochs = 60
data_root = 'data/sthv2/'
load_kinetics = dict(
    type='mmswinv2.LoadCheckpointHook',
    checkpoint='work_dirs/video-swinv2-b-p244-w8x8x8_8xb8-amp-30e_kinetics400-rgb-256/epoch_30.pth',
    new=['cls_head'],
)
custom_hooks = [load_kinetics]
model = dict(
    # the window spans the clip; the bias keeps the scale that it was trained with
    backbone=dict(window_size=(16, 8, 8), drop_path_rate=0.4, init_cfg=None),
    cls_head=dict(num_classes=174, label_smooth_eps=0.1),
)
# frames from the whole video; no flip, because classes tell left from right
train_pipeline = [
    dict(type='mmswinv2.VideoInit'),
    dict(type='UniformSample', clip_len=32, num_clips=1),
    dict(type='mmswinv2.VideoDecode'),
    dict(type='Resize', scale=(-1, 292)),
    dict(type='RandomResizedCrop'),
    dict(type='Resize', scale=(256, 256), keep_ratio=False),
    dict(type='FormatShape', input_format='NCTHW'),
    dict(type='PackActionInputs'),
]
val_pipeline = [
    dict(type='mmswinv2.VideoInit'),
    dict(type='UniformSample', clip_len=32, num_clips=1, test_mode=True),
    dict(type='mmswinv2.VideoDecode'),
    dict(type='Resize', scale=(-1, 256)),
    dict(type='CenterCrop', crop_size=256),
    dict(type='FormatShape', input_format='NCTHW'),
    dict(type='PackActionInputs'),
]
test_pipeline = [
    dict(type='mmswinv2.VideoInit'),
    dict(type='UniformSample', clip_len=32, num_clips=1, test_mode=True),
    dict(type='mmswinv2.VideoDecode'),
    dict(type='Resize', scale=(-1, 256)),
    dict(type='ThreeCrop', crop_size=256),
    dict(type='FormatShape', input_format='NCTHW'),
    dict(type='PackActionInputs'),
]
train_dataloader = dict(
    dataset=dict(
        data_root=data_root,
        ann_file='sthv2_train_list_videos.txt',
        data_prefix=dict(video='videos'),
        pipeline=train_pipeline,
    )
)
val_dataloader = dict(
    dataset=dict(
        data_root=data_root,
        ann_file='sthv2_val_list_videos.txt',
        data_prefix=dict(video='videos'),
        pipeline=val_pipeline,
    )
)
test_dataloader = dict(
    dataset=dict(
        data_root=data_root,
        ann_file='sthv2_val_list_videos.txt',
        data_prefix=dict(video='videos'),
        pipeline=test_pipeline,
    )
)
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=0.1,
        by_epoch=True,
        begin=0,
        end=2.5,
        convert_to_iter_based=True,
    ),
    dict(type='CosineAnnealingLR', by_epoch=True, begin=0, end=max_epochs, eta_min=0),
]
optim_wrapper = dict(optimizer=dict(lr=3e-4))
