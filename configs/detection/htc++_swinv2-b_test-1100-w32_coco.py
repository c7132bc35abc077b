# HTC++, SwinV2-B, tested at shorter side 1100 with the window it was trained with, 32.
# Expected: not given in the paper. Measured: not reproduced here.
_base_ = 'htc++_swinv2-b-w32_fpn_16xb4-3x_coco-1536x1536.py'
