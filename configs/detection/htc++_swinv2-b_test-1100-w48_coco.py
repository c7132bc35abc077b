# HTC++, SwinV2-B, tested at shorter side 1100 with window 48; no weight changes.
# Expected: not given in the paper. Measured: not reproduced here.
_base_ = 'htc++_swinv2-b_test-1100-w32_coco.py'

model = dict(backbone=dict(window_size=48))
