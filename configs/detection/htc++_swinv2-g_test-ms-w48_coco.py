# HTC++, SwinV2-G, tested at several scales with window 48: tools/test.py CONFIG CHECKPOINT --tta
# Expected: box AP 62.5, mask AP 53.7 (paper). Measured: not reproduced here.
_base_ = [
    'htc++_swinv2-g_test-1100-w48_coco.py',
    '../_base_/datasets/coco_tta_ms.py',
]
