# Video-SwinV2-B, 32 frames of 256x256: Video Swin's recipe with a V2 backbone. Not in the paper.
# Expected top-1: unknown. Measured: not reproduced here.
# tools/dist_train.sh configs/video/video-swinv2-b-p244-w8x8x8_8xb8-amp-30e_kinetics400-rgb-256.py 8
_base_ = 'video-swinv2-t-p244-w8x8x8_8xb8-amp-30e_kinetics400-rgb-256.py'

model = dict(
    backbone=dict(
        arch='base',
        drop_path_rate=0.3,
        init_cfg=dict(checkpoint='swinv2_base_patch4_window8_256'),
    ),
    cls_head=dict(in_channels=1024),
)
optim_wrapper = dict(optimizer=dict(weight_decay=0.05))
