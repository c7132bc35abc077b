# SwinV2-T, window 16, on ImageNet-1K at 256 pixels: the paper's recipe, 300 epochs of batch 1024.
# Expected top-1: 82.8 (authors). Measured: not reproduced here.
#   python tools/test.py CONFIG swinv2_tiny_patch4_window16_256.pth
_base_ = 'swinv2-tiny-w8_16xb64_in1k-256px.py'

model = dict(backbone=dict(window_size=[16, 16, 16, 8]))
