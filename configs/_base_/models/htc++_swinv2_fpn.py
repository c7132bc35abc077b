# HTC++ on SwinV2-B with FPN: Hybrid Task Cascade with a semantic branch, the box heads of the
# authors' Cascade Mask R-CNN and a global self-attention block behind the backbone. The authors
# published neither code nor config; with these parts the detector has the number of parameters
# they report, 160M (Swin-B) and 284M (Swin-L).
_base_ = 'cascade-mask-rcnn_swinv2_fpn.py'

model = dict(
    type='HybridTaskCascade',
    data_preprocessor=dict(pad_seg=True),
    backbone=dict(
        arch='base',
        window_size=32,
        pretrained_window_sizes=[12, 12, 12, 6],
        drop_path_rate=0.3,  # not given in the paper
        init_cfg=dict(checkpoint='swinv2_base_patch4_window12_192_22k'),
    ),
    neck=[
        dict(type='mmswinv2.GlobalSelfAttention', in_channels=1024),
        dict(type='FPN', in_channels=[128, 256, 512, 1024], out_channels=256, num_outs=5),
    ],
    roi_head=dict(
        type='HybridTaskCascadeRoIHead',
        interleaved=True,
        mask_info_flow=True,
        # as for Cascade Mask R-CNN, but with one box for all classes, as in HTC
        bbox_head=[dict(head, reg_class_agnostic=True) for head in _base_.model.roi_head.bbox_head],
        mask_head=[
            dict(
                type='HTCMaskHead',
                with_conv_res=with_conv_res,
                num_convs=4,
                in_channels=256,
                conv_out_channels=256,
                num_classes=80,
                loss_mask=dict(type='CrossEntropyLoss', use_mask=True, loss_weight=1.0),
            )
            for with_conv_res in (False, True, True)
        ],
        semantic_roi_extractor=dict(
            type='SingleRoIExtractor',
            roi_layer=dict(type='RoIAlign', output_size=14, sampling_ratio=0),
            out_channels=256,
            featmap_strides=[8],
        ),
        semantic_head=dict(
            type='FusedSemanticHead',
            num_ins=5,
            fusion_level=1,
            seg_scale_factor=1 / 8,
            num_convs=4,
            in_channels=256,
            conv_out_channels=256,
            num_classes=183,
            # averaged over labeled pixels only: much of a jittered image is padding
            loss_seg=dict(
                type='CrossEntropyLoss', ignore_index=255, avg_non_ignore=True, loss_weight=0.2
            ),
        ),
    ),
    # 0, as in HTC, leaves no anchor in an image jittered to a few pixels, and training fails
    train_cfg=dict(rpn=dict(allowed_border=-1)),
    # thresholds are not given in the paper
    test_cfg=dict(
        rcnn=dict(score_thr=0.001, nms=dict(type='soft_nms', iou_threshold=0.5)),
    ),
)
