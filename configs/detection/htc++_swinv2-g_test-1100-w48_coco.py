# HTC++, SwinV2-G, tested at shorter side 1100 with window 48; no weight changes.
# Expected: box AP 61.9, mask AP 53.4 (paper). Measured: not reproduced here.
_base_ = 'htc++_swinv2-g_test-1100-w32_coco.py'

model = dict(backbone=dict(window_size=48))
