# HTC++, SwinV2-L, window 32, 1536x1536, adapted on one card: adapters of rank 16 in the backbone,
# whose own weights stay as published. Nothing of it is in the paper. Measured: not trained here.
# Memory, and merging its checkpoints into plain weights: docs/how_to/lora.md.
_base_ = 'htc++_swinv2-l-w32_fpn_16xb4-3x_coco-1536x1536.py'

model = dict(backbone=dict(lora=dict(rank=16)))
train_dataloader = dict(batch_size=2)
optim_wrapper = dict(
    optimizer=dict(lr=1e-4),
    # adapters are new like the heads, so they learn at the same rate
    paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=1.0))),
)
auto_scale_lr = dict(base_batch_size=2)
