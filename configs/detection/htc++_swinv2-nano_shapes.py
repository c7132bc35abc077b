# HTC++, SwinV2-nano, from scratch on drawn shapes, with semantic branch: minutes on two CPU cores.
#   python tools/dataset_converters/make_shapes.py data/shapes
#   python tools/train.py configs/detection/htc++_swinv2-nano_shapes.py
#   python tools/test.py configs/detection/htc++_swinv2-nano_shapes.py CHECKPOINT --tta
_base_ = [
    '../_base_/models/htc++_swinv2_fpn.py',
    '../_base_/datasets/shapes_instance.py',
    '../_base_/schedules/nano_det.py',
]

channels = 64
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmswinv2.SwinTransformerV2',
        arch='nano',
        window_size=8,
        drop_path_rate=0.05,
    ),
    neck=[
        dict(type='mmswinv2.GlobalSelfAttention', in_channels=256),
        dict(type='FPN', in_channels=[32, 64, 128, 256], out_channels=channels, num_outs=5),
    ],
    rpn_head=dict(in_channels=channels, feat_channels=channels, anchor_generator=dict(scales=[6])),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=channels),
        bbox_head=[
            dict(
                type='ConvFCBBoxHead',
                num_shared_convs=2,
                num_shared_fcs=1,
                in_channels=channels,
                conv_out_channels=channels,
                fc_out_channels=128,
                num_classes=4,
                bbox_coder=dict(
                    type='DeltaXYWHBBoxCoder',
                    target_means=[0.0, 0.0, 0.0, 0.0],
                    target_stds=stds,
                ),
                reg_class_agnostic=True,
                reg_decoded_bbox=True,
                norm_cfg=dict(type='SyncBN', requires_grad=True),
                loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
                loss_bbox=dict(type='GIoULoss', loss_weight=10.0),
            )
            for stds in ([0.1, 0.1, 0.2, 0.2], [0.05, 0.05, 0.1, 0.1], [0.033, 0.033, 0.067, 0.067])
        ],
        mask_roi_extractor=dict(out_channels=channels),
        mask_head=[
            dict(head, num_convs=2, in_channels=channels, conv_out_channels=channels, num_classes=4)
            for head in _base_.model.roi_head.mask_head
        ],
        semantic_roi_extractor=dict(out_channels=channels),
        # 7 classes: labels of things and stuff are consecutive
        semantic_head=dict(in_channels=channels, conv_out_channels=channels, num_classes=7),
    ),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=128)),
        rpn_proposal=dict(nms_pre=200, max_per_img=100),
        rcnn=[
            dict(stage, sampler=dict(stage.sampler, num=32))
            for stage in _base_.model.train_cfg.rcnn
        ],
    ),
    test_cfg=dict(rpn=dict(nms_pre=200, max_per_img=100), rcnn=dict(max_per_img=20)),
)

train_pipeline = [
    {{_base_.load_image}},
    dict(type='mmswinv2.InstaBoost'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True, with_seg=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
train_dataloader = dict(
    dataset=dict(data_prefix=dict(seg='stuffthingmaps/train2017/'), pipeline=train_pipeline)
)
