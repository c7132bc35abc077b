# Video-SwinV2-T with mmaction2's head; windows of 8x8x8 tokens are 16 frames of 32x32 pixels.
model = dict(
    type='Recognizer3D',
    backbone=dict(
        type='mmswinv2.VideoSwinTransformerV2',
        arch='tiny',
        patch_size=(2, 4, 4),
        window_size=(8, 8, 8),
        pretrained_window_sizes=(8, 8, 8),
        drop_path_rate=0.1,
        pretrained2d=True,
        init_cfg=dict(type='Pretrained', checkpoint='swinv2_tiny_patch4_window8_256'),
    ),
    data_preprocessor=dict(
        type='ActionDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        format_shape='NCTHW',
    ),
    cls_head=dict(
        type='I3DHead',
        in_channels=768,
        num_classes=400,
        spatial_type='avg',
        dropout_ratio=0.5,
        average_clips='prob',
    ),
)
