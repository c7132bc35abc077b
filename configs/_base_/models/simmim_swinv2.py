# SimMIM as in the SwinV2 authors' code: the target is normalized around each pixel.
model = dict(
    type='SimMIM',
    backbone=dict(
        type='mmswinv2.SimMIMSwinTransformerV2',
        arch='base',
        window_size=[12, 12, 12, 6],
        drop_path_rate=0.1,
    ),
    neck=dict(type='SimMIMLinearDecoder', in_channels=1024, encoder_stride=32),
    head=dict(
        type='SimMIMHead',
        patch_size=4,
        loss=dict(type='mmswinv2.NormalizedPixelLoss', patch_size=47),
    ),
    data_preprocessor=dict(
        type='SelfSupDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        to_rgb=True,
    ),
)
