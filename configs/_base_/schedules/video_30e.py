# Video Swin's schedule (https://arxiv.org/abs/2106.13230 and its code): AdamW, lr 1e-3 and a tenth
# of it in the backbone, 30 epochs of batch 64, 2.5 of linear warm-up, cosine.
# Precision: mixed, float16, by default in Video Swin's code; `tools/train.py --amp` does the same.
max_epochs = 30
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_begin=1, val_interval=3)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=0.1,
        by_epoch=True,
        begin=0,
        end=2.5,
        convert_to_iter_based=True,
    ),
    dict(type='CosineAnnealingLR', by_epoch=True, begin=0, end=max_epochs, eta_min=0),
]
optim_wrapper = dict(
    type='AmpOptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, betas=(0.9, 0.999), weight_decay=0.02),
    constructor='mmswinv2.SwinLayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=0.1))),
)
auto_scale_lr = dict(enable=False, base_batch_size=64)
