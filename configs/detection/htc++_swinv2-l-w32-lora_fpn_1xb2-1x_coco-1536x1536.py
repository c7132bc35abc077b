# HTC++ on SwinV2-L, adapted on one card: adapters of rank 16 in the backbone, whose own weights stay
# as published. None of it is given in the paper. Measured: not trained here; memory: docs/how_to/lora.md.
# A checkpoint holds what is trained; tools/model_converters/merge_lora.py makes plain weights of it.
_base_ = 'htc++_swinv2-l-w32_fpn_16xb4-3x_coco-1536x1536.py'

max_epochs = 12
model = dict(backbone=dict(lora=dict(rank=16)))
train_dataloader = dict(batch_size=2)
optim_wrapper = dict(
    optimizer=dict(lr=1e-4),
    # adapters start at zero: they learn as fast as the heads
    paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=1.0))),
)
auto_scale_lr = dict(base_batch_size=2)
