# SwinV2-B, window 16, fine-tuned from ImageNet-22K (192 pixels, window 12) to ImageNet-1K at 256.
# Expected top-1: 86.2 (authors). Measured: not reproduced here.
#   python tools/train.py CONFIG --class-map MAP   (a line per class: its number among the 21,841)
#   python tools/test.py CONFIG swinv2_base_patch4_window12to16_192to256_22kto1k_ft.pth
_base_ = [
    '../_base_/models/swinv2_classifier_in22k-pre.py',
    '../_base_/datasets/imagenet_256.py',
    '../_base_/schedules/imagenet_finetune_30e.py',
    '../_base_/default_runtime_cls.py',
]

model = dict(backbone=dict(window_size=[16, 16, 16, 8]))
custom_hooks = [
    dict(type='mmswinv2.LoadCheckpointHook', checkpoint='swinv2_base_patch4_window12_192_22k'),
]
