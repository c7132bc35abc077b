# SwinV2-B, window 8, on ImageNet-1K at 256 pixels: the paper's recipe, 300 epochs of batch 1024.
# Expected top-1: 84.2 (authors). Measured: not reproduced here.
#   python tools/test.py CONFIG swinv2_base_patch4_window8_256.pth
_base_ = 'swinv2-tiny-w8_16xb64_in1k-256px.py'

model = dict(
    backbone=dict(arch='base', drop_path_rate=0.5),
    head=dict(in_channels=1024),
)
