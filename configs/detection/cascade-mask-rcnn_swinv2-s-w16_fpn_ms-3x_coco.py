# Cascade Mask R-CNN, SwinV2-S, window 16: the paper's COCO ablation recipe.
# Expected box AP: not given in the paper. Measured: not reproduced here.
# tools/dist_train.sh configs/detection/cascade-mask-rcnn_swinv2-s-w16_fpn_ms-3x_coco.py 8
_base_ = 'cascade-mask-rcnn_swinv2-t-w16_fpn_ms-3x_coco.py'

model = dict(
    backbone=dict(
        arch='small',
        drop_path_rate=0.3,  # of the pre-training; not given in the paper for detection
        init_cfg=dict(checkpoint='swinv2_small_patch4_window16_256'),
    ),
)
