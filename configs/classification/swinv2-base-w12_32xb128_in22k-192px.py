# SwinV2-B, window 12, on ImageNet-22K at 192 pixels: the paper's recipe, 90 epochs of batch 4096.
#   python tools/test.py CONFIG swinv2_base_patch4_window12_192_22k.pth
_base_ = [
    '../_base_/models/swinv2_classifier.py',
    '../_base_/datasets/imagenet22k_192.py',
    '../_base_/schedules/imagenet22k_90e.py',
    '../_base_/default_runtime_cls.py',
]

model = dict(
    backbone=dict(arch='base', window_size=[12, 12, 12, 6], drop_path_rate=0.2),
    head=dict(num_classes=21841, in_channels=1024),
)
