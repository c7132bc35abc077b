# UperNet, SwinV2-T, window 16, 512x512: the paper's ADE20K ablation recipe.
# Expected mIoU: 47.0 (paper). Measured: not reproduced here.
# tools/dist_train.sh configs/segmentation/swinv2-t-w16_upernet_8xb2-160k_ade20k-512x512.py 8
_base_ = [
    '../_base_/models/upernet_swinv2.py',
    '../_base_/datasets/ade20k.py',
    '../_base_/schedules/upernet_160k.py',
    '../_base_/default_runtime_seg.py',
]
