# SimMIM for SwinV2-L. Its recipe is not published; this is the one of SwinV2-B.
_base_ = 'simmim_swinv2-base-w12_16xb128-800e_in1k-192px.py'

model = dict(backbone=dict(arch='large'), neck=dict(in_channels=1536))
