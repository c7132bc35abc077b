# Mask R-CNN, SwinV2-nano, from scratch on COCO at 320 pixels: checks that data in COCO format
# trains and evaluates before you use a GPU. Not a recipe of the paper.
#   python tools/train.py configs/detection/mask-rcnn_swinv2-nano_coco-320.py \
#       --cfg-options data_root=data/coco
_base_ = 'mask-rcnn_swinv2-nano_shapes.py'

data_root = 'data/coco/'
model = dict(roi_head=dict(bbox_head=dict(num_classes=80), mask_head=dict(num_classes=80)))

# as for the shapes, with Resize added
train_pipeline = [
    {{_base_.load_image}},
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='Resize', scale=(320, 320), keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    {{_base_.load_image}},
    dict(type='Resize', scale=(320, 320), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    {{_base_.pack_for_test}},
]
no_names = dict(_delete_=True)  # use the names of COCO
train_dataloader = dict(
    batch_size=4,
    dataset=dict(data_root=data_root, metainfo=no_names, pipeline=train_pipeline),
)
val_dataloader = dict(dataset=dict(data_root=data_root, metainfo=no_names, pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/instances_val2017.json')
test_evaluator = val_evaluator
