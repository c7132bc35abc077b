# Weights of 256 pixels and window 8 at 640 pixels and window 20, without training (paper, table 1).
# The crop is not given in the paper; it is 7/8 of the shorter side, as at 256.
#   python tools/test.py CONFIG swinv2_tiny_patch4_window8_256.pth
_base_ = 'swinv2-tiny-w8_16xb64_in1k-256px.py'

model = dict(backbone=dict(window_size=20, pretrained_window_sizes=8))
test_pipeline = [
    {{_base_.load_image}},
    dict(type='ResizeEdge', scale=731, edge='short', backend='pillow', interpolation='bicubic'),
    dict(type='CenterCrop', crop_size=640),
    {{_base_.pack}},
]
val_dataloader = dict(batch_size=16, dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
