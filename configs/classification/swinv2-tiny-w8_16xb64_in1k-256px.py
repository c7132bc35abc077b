# SwinV2-T, window 8, on ImageNet-1K at 256 pixels: the paper's recipe, 300 epochs of batch 1024.
# Expected top-1: 81.8 (authors). Measured: not reproduced here.
#   python tools/test.py CONFIG swinv2_tiny_patch4_window8_256.pth
_base_ = [
    '../_base_/models/swinv2_classifier.py',
    '../_base_/datasets/imagenet_256.py',
    '../_base_/schedules/imagenet_300e.py',
    '../_base_/default_runtime_cls.py',
]
