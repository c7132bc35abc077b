# The paper's fine-tuning from ImageNet-22K: lr 4e-5, weight decay 1e-8, batch 1024, 30 epochs,
# cosine; 5 epochs of warm-up as in the authors' code.
# Precision: mixed, float16, by default in the authors' code; `tools/train.py --amp` does the same.
_base_ = 'imagenet_300e.py'

max_epochs = 30
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
        eta_min=4e-7,
        convert_to_iter_based=True,
    ),
]
optim_wrapper = dict(optimizer=dict(lr=4e-5, weight_decay=1e-8))
