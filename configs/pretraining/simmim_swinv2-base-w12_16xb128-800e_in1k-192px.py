# SimMIM for SwinV2-B as in the authors' code, 800 epochs.
_base_ = [
    '../_base_/models/simmim_swinv2.py',
    '../_base_/datasets/imagenet_simmim_192.py',
    '../_base_/schedules/simmim_800e.py',
    '../_base_/default_runtime_cls.py',
]

default_hooks = dict(checkpoint=dict(interval=10))
