# Video-SwinV2-G, tested on one view of 320x320 with window 20x20x8.
# Expected top-1: 83.2 (paper). Measured: not reproduced here.
# tools/dist_test.sh CONFIG CHECKPOINT 8
_base_ = 'video-swinv2-g-p244-w8x20x20_64xb1-5e_kinetics400-rgb-320.py'
