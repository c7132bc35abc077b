# TSN with SwinV2-T: an image network runs on 8 frames of a video, and their scores are averaged.
# The schedule is that of the video networks. Not in the paper.
# Expected top-1: unknown. Measured: not reproduced here.
# tools/dist_train.sh configs/video/swinv2-t-w8_tsn-1x1x8_8xb8-amp-30e_kinetics400-rgb-256.py 8
_base_ = [
    '../_base_/datasets/kinetics400.py',
    '../_base_/schedules/video_30e.py',
    '../_base_/default_runtime_video.py',
]

model = dict(
    type='Recognizer2D',
    backbone=dict(
        type='mmswinv2.SwinTransformerV2',
        arch='tiny',
        window_size=8,
        pretrained_window_sizes=[8, 8, 8, 8],
        drop_path_rate=0.1,
        single_output=True,  # the head takes the last map, not a tuple
        init_cfg=dict(type='Pretrained', checkpoint='swinv2_tiny_patch4_window8_256'),
    ),
    data_preprocessor=dict(
        type='ActionDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        format_shape='NCHW',
    ),
    cls_head=dict(
        type='TSNHead',
        in_channels=768,
        num_classes=400,
        spatial_type='avg',
        consensus=dict(type='AvgConsensus', dim=1),
        dropout_ratio=0.4,
        average_clips='prob',
    ),
)
train_pipeline = [
    dict(type='mmswinv2.VideoInit'),
    dict(type='SampleFrames', clip_len=1, frame_interval=1, num_clips=8),
    dict(type='mmswinv2.VideoDecode'),
    dict(type='Resize', scale=(-1, 292)),
    dict(type='RandomResizedCrop'),
    dict(type='Resize', scale=(256, 256), keep_ratio=False),
    dict(type='Flip', flip_ratio=0.5),
    dict(type='FormatShape', input_format='NCHW'),
    dict(type='PackActionInputs'),
]
val_pipeline = [
    dict(type='mmswinv2.VideoInit'),
    dict(type='SampleFrames', clip_len=1, frame_interval=1, num_clips=8, test_mode=True),
    dict(type='mmswinv2.VideoDecode'),
    dict(type='Resize', scale=(-1, 256)),
    dict(type='CenterCrop', crop_size=256),
    dict(type='FormatShape', input_format='NCHW'),
    dict(type='PackActionInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=val_pipeline))
test_dataloader = dict(dataset=dict(pipeline=val_pipeline))
