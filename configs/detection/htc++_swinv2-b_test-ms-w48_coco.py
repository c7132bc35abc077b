# HTC++, SwinV2-B, tested at several scales with window 48: tools/test.py CONFIG CHECKPOINT --tta
# Expected: not given in the paper. Measured: not reproduced here.
_base_ = [
    'htc++_swinv2-b_test-1100-w48_coco.py',
    '../_base_/datasets/coco_tta_ms.py',
]
