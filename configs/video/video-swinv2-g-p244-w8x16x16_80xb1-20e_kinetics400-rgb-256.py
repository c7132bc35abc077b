# Video-SwinV2-G, stage 1 of the paper: 256x256x8, window 16x16x8. The third number is read as
# tokens, as in Video Swin's tables, so clips have 16 frames. The paper does not explain it.
# Expected top-1: not given in the paper. Measured: not reproduced here.
# The authors released no weights of G; set model.backbone.init_cfg to a file of your own.
# NNODES=10 NODE_RANK=0 MASTER_ADDR=... tools/dist_train.sh CONFIG 8
_base_ = [
    '../_base_/models/video-swinv2.py',
    '../_base_/datasets/kinetics400.py',
    '../_base_/schedules/video_30e.py',
    '../_base_/default_runtime_video.py',
    '../_base_/strategies/zero1.py',
]

max_epochs = 20
model = dict(
    backbone=dict(
        arch='giant',
        window_size=(8, 16, 16),
        pretrained_window_sizes=[(8, 12, 12), (8, 12, 12), (8, 12, 12), (8, 6, 6)],
        drop_path_rate=0.4,  # not given in the paper
        with_cp=True,
        windows_at_once=[16, 16, None, None],  # the paper's first two stages; how many: not given
        init_cfg=None,
    ),
    cls_head=dict(in_channels=4096, dropout_ratio=0.5),  # dropout not given in the paper
    test_cfg=dict(max_testing_views=1),  # one view at a time, with the same scores
)
train_pipeline = [
    dict(type='mmswinv2.VideoInit'),
    # the interval is not given in the paper
    dict(type='SampleFrames', clip_len=16, frame_interval=2, num_clips=1),
    dict(type='mmswinv2.VideoDecode'),
    dict(type='Resize', scale=(-1, 292)),
    dict(type='RandomResizedCrop'),
    dict(type='Resize', scale=(256, 256), keep_ratio=False),
    dict(type='Flip', flip_ratio=0.5),
    dict(type='FormatShape', input_format='NCTHW'),
    dict(type='PackActionInputs'),
]
val_pipeline = [
    dict(type='mmswinv2.VideoInit'),
    dict(type='SampleFrames', clip_len=16, frame_interval=2, num_clips=1, test_mode=True),
    dict(type='mmswinv2.VideoDecode'),
    dict(type='Resize', scale=(-1, 256)),
    dict(type='CenterCrop', crop_size=256),
    dict(type='FormatShape', input_format='NCTHW'),
    dict(type='PackActionInputs'),
]
train_dataloader = dict(batch_size=1, dataset=dict(pipeline=train_pipeline))  # on 80 GPUs
val_dataloader = dict(batch_size=1, dataset=dict(pipeline=val_pipeline))
test_dataloader = dict(dataset=dict(pipeline=val_pipeline))
train_cfg = dict(max_epochs=max_epochs, val_interval=1)
param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=0.1,  # not given in the paper
        by_epoch=True,
        begin=0,
        end=2.5,
        convert_to_iter_based=True,
    ),
    dict(
        type='CosineAnnealingLR',
        by_epoch=True,
        begin=0,
        end=max_epochs,
        eta_min=0,
        convert_to_iter_based=True,
    ),
]
optim_wrapper = dict(
    dtype='bfloat16',  # not given in the paper
    optimizer=dict(lr=3.6e-4, weight_decay=0.1),
    # a lower rate in the backbone and over its layers: not given in the paper
    paramwise_cfg=dict(_delete_=True, layer_decay_rate=1.0),
)
auto_scale_lr = dict(base_batch_size=80)
