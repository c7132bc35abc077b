# Video-SwinV2-T, 32 frames of 256x256: Video Swin's recipe with a V2 backbone. Not in the paper.
# Expected top-1: unknown. Measured: not reproduced here.
# tools/dist_train.sh configs/video/video-swinv2-t-p244-w8x8x8_8xb8-amp-30e_kinetics400-rgb-256.py 8
_base_ = [
    '../_base_/models/video-swinv2.py',
    '../_base_/datasets/kinetics400.py',
    '../_base_/schedules/video_30e.py',
    '../_base_/default_runtime_video.py',
]
