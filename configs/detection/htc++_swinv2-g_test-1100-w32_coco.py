# HTC++, SwinV2-G, tested at shorter side 1100 with the window it was trained with, 32.
# Expected: box AP 61.7, mask AP 53.3 (paper). Measured: not reproduced here.
_base_ = 'htc++_swinv2-g-w32_fpn_96xb1-45k_coco-1536x1536.py'
