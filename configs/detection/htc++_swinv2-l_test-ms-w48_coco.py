# HTC++, SwinV2-L, tested at several scales with window 48: tools/test.py CONFIG CHECKPOINT --tta
# Expected: box AP 60.2, mask AP 52.1 (paper). Measured: not reproduced here.
_base_ = [
    'htc++_swinv2-l_test-1100-w48_coco.py',
    '../_base_/datasets/coco_tta_ms.py',
]
