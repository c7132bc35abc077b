# SwinV2-L, window 12, on ImageNet-22K at 192 pixels: the paper's recipe, 90 epochs of batch 4096.
#   python tools/test.py CONFIG swinv2_large_patch4_window12_192_22k.pth
_base_ = 'swinv2-base-w12_32xb128_in22k-192px.py'

model = dict(backbone=dict(arch='large'), head=dict(in_channels=1536))
