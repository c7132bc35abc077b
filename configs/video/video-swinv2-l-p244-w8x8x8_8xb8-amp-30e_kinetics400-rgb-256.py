# Video-SwinV2-L, 32 frames of 256x256: Video Swin's recipe with a V2 backbone. Not in the paper.
# The authors of Video Swin published no config of L. Rate and drop path are those of mmaction2's L;
# for B from ImageNet-22K the authors have 3e-4 and 0.2.
# Expected top-1: unknown. Measured: not reproduced here.
# tools/dist_train.sh configs/video/video-swinv2-l-p244-w8x8x8_8xb8-amp-30e_kinetics400-rgb-256.py 8
_base_ = 'video-swinv2-t-p244-w8x8x8_8xb8-amp-30e_kinetics400-rgb-256.py'

model = dict(
    backbone=dict(
        arch='large',
        pretrained_window_sizes=[(8, 12, 12), (8, 12, 12), (8, 12, 12), (8, 6, 6)],
        drop_path_rate=0.4,
        with_cp=True,
        init_cfg=dict(checkpoint='swinv2_large_patch4_window12_192_22k'),
    ),
    cls_head=dict(in_channels=1536),
)
optim_wrapper = dict(optimizer=dict(weight_decay=0.05))
