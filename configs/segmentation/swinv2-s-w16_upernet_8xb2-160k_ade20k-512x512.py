# UperNet, SwinV2-S, window 16, 512x512: the paper's ADE20K ablation recipe.
# Expected mIoU: not given in the paper. Measured: not reproduced here.
# tools/dist_train.sh configs/segmentation/swinv2-s-w16_upernet_8xb2-160k_ade20k-512x512.py 8
_base_ = 'swinv2-t-w16_upernet_8xb2-160k_ade20k-512x512.py'

model = dict(
    backbone=dict(
        arch='small',
        init_cfg=dict(checkpoint='swinv2_small_patch4_window16_256'),
    ),
)
