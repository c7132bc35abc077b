# Video-SwinV2-nano from scratch on drawn motion: `make demo-video`. Minutes on two CPU cores.
#   python tools/dataset_converters/make_motion.py data/motion
#   python tools/train.py configs/video/video-swinv2-nano_motion.py
_base_ = [
    '../_base_/models/video-swinv2-nano.py',
    '../_base_/datasets/kinetics400.py',
    '../_base_/schedules/nano.py',
    '../_base_/default_runtime_video.py',
]

data_root = 'data/motion/'
train_pipeline = [
    dict(type='mmswinv2.VideoInit'),
    dict(type='SampleFrames', clip_len=8, frame_interval=2, num_clips=1),
    dict(type='mmswinv2.VideoDecode'),
    dict(type='FormatShape', input_format='NCTHW'),
    dict(type='PackActionInputs'),
]
test_pipeline = [
    dict(type='mmswinv2.VideoInit'),
    dict(type='SampleFrames', clip_len=8, frame_interval=2, num_clips=1, test_mode=True),
    dict(type='mmswinv2.VideoDecode'),
    dict(type='FormatShape', input_format='NCTHW'),
    dict(type='PackActionInputs'),
]
model = dict(cls_head=dict(num_classes=6))
train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    persistent_workers=False,
    sampler=dict(type='InfiniteSampler'),
    dataset=dict(
        data_root=data_root, ann_file='motion_train_list_videos.txt', pipeline=train_pipeline
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        data_root=data_root, ann_file='motion_val_list_videos.txt', pipeline=test_pipeline
    ),
)
test_dataloader = val_dataloader
max_iters = 450
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=50, end=max_iters, eta_min=1e-5),
]
default_hooks = dict(
    logger=dict(log_metric_by_epoch=False),
    checkpoint=dict(by_epoch=False, interval=225),
)
log_processor = dict(by_epoch=False)
