# The paper's system-level COCO recipe of B and L: AdamW, lr 4e-4 and a tenth of it in the backbone,
# weight decay 0.05, batch 64, 36 epochs.
_base_ = 'ablation_3x.py'

optim_wrapper = dict(
    optimizer=dict(lr=4e-4),
    paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=0.1))),
)
auto_scale_lr = dict(base_batch_size=64)
