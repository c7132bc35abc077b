# Cascade Mask R-CNN, SwinV2-T, window 16: the paper's COCO ablation recipe.
# Expected box AP: 51.1 (paper). Measured: not reproduced here.
# tools/dist_train.sh configs/detection/cascade-mask-rcnn_swinv2-t-w16_fpn_ms-3x_coco.py 8
_base_ = [
    '../_base_/models/cascade-mask-rcnn_swinv2_fpn.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/ablation_3x.py',
    '../_base_/default_runtime_det.py',
]
