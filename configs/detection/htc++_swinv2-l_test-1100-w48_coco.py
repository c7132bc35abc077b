# HTC++, SwinV2-L, tested at shorter side 1100 with window 48; no weight changes.
# Expected: box AP 58.9, mask AP 51.2 (paper). Measured: not reproduced here.
_base_ = 'htc++_swinv2-l_test-1100-w32_coco.py'

model = dict(backbone=dict(window_size=48))
