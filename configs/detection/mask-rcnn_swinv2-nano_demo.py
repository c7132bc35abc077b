# Mask R-CNN, SwinV2-nano, from scratch on large drawn shapes: `make demo`. Minutes on two cores.
#   python tools/dataset_converters/make_shapes.py data/shapes-demo --size 80 --large
#   python tools/train.py configs/detection/mask-rcnn_swinv2-nano_demo.py
_base_ = 'mask-rcnn_swinv2-nano_shapes.py'

data_root = 'data/shapes-demo/'
train_dataloader = dict(batch_size=4, dataset=dict(data_root=data_root))
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/instances_val2017.json')
test_evaluator = val_evaluator

# For faster learning, half of the regions are positive, and boxes and masks are class-agnostic.
# RoIAlign samples one point per cell: adaptive sampling takes a third of a step on a CPU.
model = dict(
    roi_head=dict(
        bbox_roi_extractor=dict(roi_layer=dict(sampling_ratio=1)),
        mask_roi_extractor=dict(roi_layer=dict(sampling_ratio=1)),
        bbox_head=dict(reg_class_agnostic=True, loss_cls=dict(loss_weight=2.0)),
        mask_head=dict(class_agnostic=True, loss_mask=dict(loss_weight=2.0)),
    ),
    train_cfg=dict(rcnn=dict(sampler=dict(pos_fraction=0.5))),
    test_cfg=dict(rcnn=dict(nms=dict(class_agnostic=True))),  # one label for each box
)
optim_wrapper = dict(optimizer=dict(fused=True))
max_iters = 560
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
param_scheduler = [  # classes are learned from step 250 on; until then the rate stays high
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=300, end=max_iters, eta_min=1e-5),
]
default_hooks = dict(checkpoint=dict(interval=max_iters // 2))
