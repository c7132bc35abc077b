# Video-SwinV2-G, tested on one view of 384x384 with window 24x24x8; no weight changes.
# Expected top-1: 83.4 (paper). Measured: not reproduced here.
# tools/dist_test.sh CONFIG CHECKPOINT 8
_base_ = 'video-swinv2-g-p244-w8x20x20_64xb1-5e_kinetics400-rgb-320.py'

model = dict(backbone=dict(window_size=(8, 24, 24)))
test_pipeline = [
    dict(type='mmswinv2.VideoInit'),
    dict(type='SampleFrames', clip_len=16, frame_interval=2, num_clips=1, test_mode=True),
    dict(type='mmswinv2.VideoDecode'),
    dict(type='Resize', scale=(-1, 384)),
    dict(type='CenterCrop', crop_size=384),
    dict(type='FormatShape', input_format='NCTHW'),
    dict(type='PackActionInputs'),
]
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
