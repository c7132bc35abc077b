# Video-SwinV2-S, 32 frames of 256x256: Video Swin's recipe with a V2 backbone. Not in the paper.
# Drop path 0.1 as the authors of Video Swin have it for S; mmaction2 has 0.2.
# Expected top-1: unknown. Measured: not reproduced here.
# tools/dist_train.sh configs/video/video-swinv2-s-p244-w8x8x8_8xb8-amp-30e_kinetics400-rgb-256.py 8
_base_ = 'video-swinv2-t-p244-w8x8x8_8xb8-amp-30e_kinetics400-rgb-256.py'

model = dict(
    backbone=dict(
        arch='small',
        init_cfg=dict(checkpoint='swinv2_small_patch4_window8_256'),
    ),
)
