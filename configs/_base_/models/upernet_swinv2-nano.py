# UperNet on SwinV2-nano from scratch: heads an eighth as wide, plain batch norm.
_base_ = 'upernet_swinv2.py'

norm_cfg = dict(type='BN', requires_grad=True)
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmswinv2.SwinTransformerV2',
        arch='nano',
        window_size=8,
        drop_path_rate=0.05,
    ),
    decode_head=dict(in_channels=[32, 64, 128, 256], channels=64, norm_cfg=norm_cfg),
    auxiliary_head=dict(in_channels=128, channels=32, norm_cfg=norm_cfg),
)
