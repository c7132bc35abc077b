# The paper's COCO ablation: AdamW, lr 1e-4, weight decay 0.05, batch 16, 36 epochs.
# Precision: not given in the paper. As written, float32; `tools/train.py --amp` is mixed, float16.
max_epochs = 36
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

# Not given in the paper: milestones, here those of Swin V1's 3x schedule, and warm-up, mmdet's.
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=1000),
    dict(
        type='MultiStepLR', by_epoch=True, begin=0, end=max_epochs, milestones=[27, 33], gamma=0.1
    ),
]
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
    constructor='mmswinv2.SwinLayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(layer_decay_rate=1.0),  # not given in the paper
)
auto_scale_lr = dict(enable=False, base_batch_size=16)
