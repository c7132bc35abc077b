# Mask R-CNN, SwinV2-T, window 16: the recipe of the paper's COCO ablation with another head.
# Paper: the ablation is of Cascade Mask R-CNN only. Measured: not reproduced here.
# tools/dist_train.sh configs/detection/mask-rcnn_swinv2-t-w16_fpn_ms-3x_coco.py 8
_base_ = [
    '../_base_/models/mask-rcnn_swinv2_fpn.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/ablation_3x.py',
    '../_base_/default_runtime_det.py',
]

model = dict(
    backbone=dict(
        arch='tiny',
        window_size=16,
        pretrained_window_sizes=[16, 16, 16, 8],
        drop_path_rate=0.2,  # of the pre-training; not given in the paper for detection
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://github.com/SwinTransformer/storage/releases/download/v2.0.0/swinv2_tiny_patch4_window16_256.pth',
        ),
    )
)
