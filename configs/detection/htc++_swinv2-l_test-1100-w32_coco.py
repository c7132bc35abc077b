# HTC++, SwinV2-L, tested at shorter side 1100 with the window it was trained with, 32.
# Expected: box AP 58.8, mask AP 51.1 (paper). Measured: not reproduced here.
_base_ = 'htc++_swinv2-l-w32_fpn_16xb4-3x_coco-1536x1536.py'
