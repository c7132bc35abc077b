# UperNet, SwinV2-G, tested at 896 with window 56, at six scales and flipped: with --tta
# Expected mIoU: 59.9 (paper). Measured: not reproduced here.
# tools/dist_test.sh configs/segmentation/swinv2-g-w56_upernet_test-ms_ade20k-896x896.py \
#     CHECKPOINT 8 --tta
_base_ = 'swinv2-g-w56_upernet_test_ade20k-896x896.py'
