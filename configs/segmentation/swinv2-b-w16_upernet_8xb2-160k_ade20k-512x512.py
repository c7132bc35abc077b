# UperNet, SwinV2-B, window 16, 512x512: the paper's ADE20K ablation recipe.
# Expected mIoU: not given in the paper. Measured: not reproduced here.
# tools/dist_train.sh configs/segmentation/swinv2-b-w16_upernet_8xb2-160k_ade20k-512x512.py 8
_base_ = 'swinv2-t-w16_upernet_8xb2-160k_ade20k-512x512.py'

model = dict(
    backbone=dict(
        arch='base',
        init_cfg=dict(checkpoint='swinv2_base_patch4_window16_256'),
    ),
    decode_head=dict(in_channels=[128, 256, 512, 1024]),
    auxiliary_head=dict(in_channels=512),
)
