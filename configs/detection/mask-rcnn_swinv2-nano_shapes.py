# Mask R-CNN, SwinV2-nano, from scratch on drawn shapes, small and large. Minutes on two CPU cores.
#   python tools/dataset_converters/make_shapes.py data/shapes
#   python tools/train.py configs/detection/mask-rcnn_swinv2-nano_shapes.py
_base_ = [
    '../_base_/models/mask-rcnn_swinv2_fpn.py',
    '../_base_/datasets/shapes_instance.py',
    '../_base_/schedules/nano_det.py',
]

# heads a quarter as wide, few proposals, anchors that fit small images
channels = 64
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmswinv2.SwinTransformerV2',
        arch='nano',
        window_size=8,
        drop_path_rate=0.05,
    ),
    neck=dict(in_channels=[32, 64, 128, 256], out_channels=channels),
    rpn_head=dict(in_channels=channels, feat_channels=channels, anchor_generator=dict(scales=[6])),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=channels),
        bbox_head=dict(in_channels=channels, fc_out_channels=128, num_classes=4),
        mask_roi_extractor=dict(out_channels=channels),
        mask_head=dict(
            num_convs=2, in_channels=channels, conv_out_channels=channels, num_classes=4
        ),
    ),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=128)),
        rpn_proposal=dict(nms_pre=200, max_per_img=100),
        rcnn=dict(sampler=dict(num=32)),
    ),
    test_cfg=dict(rpn=dict(nms_pre=200, max_per_img=100), rcnn=dict(max_per_img=20)),
)
