# SwinV2-B from ImageNet-22K at 192 pixels; its windows there set the scale of the position bias.
_base_ = 'swinv2_classifier.py'

model = dict(
    backbone=dict(
        arch='base',
        pretrained_window_sizes=[12, 12, 12, 6],
        drop_path_rate=0.2,  # the authors' code
    ),
    head=dict(in_channels=1024),
)
