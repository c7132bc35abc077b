# Mask R-CNN, SwinV2-nano with adapters of rank 4, on drawn shapes: a small LoRA example.
# It adapts the weights of any SwinV2-nano model, such as the demo's:
#   python tools/train.py configs/detection/mask-rcnn_swinv2-nano-lora_shapes.py \
#       --cfg-options model.backbone.init_cfg.checkpoint=work_dirs/demo/iter_560.pth
_base_ = 'mask-rcnn_swinv2-nano_shapes.py'

model = dict(
    backbone=dict(
        lora=dict(rank=4),
        init_cfg=dict(type='Pretrained', checkpoint='work_dirs/demo/iter_560.pth'),
    )
)
