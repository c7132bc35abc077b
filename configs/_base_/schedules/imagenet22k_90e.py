# The paper's ImageNet-22K recipe: lr 1e-3, weight decay 0.1, batch 4096, 90 epochs, 5 of them
# warm-up.
# Precision: mixed, float16, by default in the authors' code; `tools/train.py --amp` does the same.
_base_ = 'imagenet_300e.py'

max_epochs = 90
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=1e-3,
        by_epoch=True,
        begin=0,
        end=5,
        convert_to_iter_based=True,
    ),
    dict(
        type='CosineAnnealingLR',
        by_epoch=True,
        begin=5,
        end=max_epochs,
        eta_min=1e-5,
        convert_to_iter_based=True,
    ),
]
optim_wrapper = dict(optimizer=dict(weight_decay=0.1))
auto_scale_lr = dict(base_batch_size=4096)
