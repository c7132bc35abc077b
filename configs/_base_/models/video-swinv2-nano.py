# Video-SwinV2-nano from scratch.
_base_ = 'video-swinv2.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmswinv2.VideoSwinTransformerV2',
        arch='nano',
        window_size=(4, 8, 8),
        drop_path_rate=0.0,
    ),
    cls_head=dict(in_channels=256, dropout_ratio=0.0),
)
