# SwinV2-L, window 16, fine-tuned from ImageNet-22K (192 pixels, window 12) to ImageNet-1K at 256.
# Expected top-1: 86.9 (authors). Measured: not reproduced here.
#   python tools/train.py CONFIG --class-map MAP   (a line per class: its number among the 21,841)
#   python tools/test.py CONFIG swinv2_large_patch4_window12to16_192to256_22kto1k_ft.pth
_base_ = 'swinv2-base-w16_in22k-pre_16xb64_in1k-256px.py'

model = dict(backbone=dict(arch='large'), head=dict(in_channels=1536))
custom_hooks = [
    dict(type='mmswinv2.LoadCheckpointHook', checkpoint='swinv2_large_patch4_window12_192_22k'),
]
