# The paper's ADE20K ablation: AdamW, lr 4e-5, weight decay 0.05, layer decay 0.95, batch 16,
# 160,000 iterations, linear warm-up over 1,500 and linear decay.
# Precision: not given in the paper. As written, float32; `tools/train.py --amp` is mixed, float16.
max_iters = 160000
warmup = 1500
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=16000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=warmup),
    dict(type='PolyLR', power=1.0, eta_min=0.0, by_epoch=False, begin=warmup, end=max_iters),
]
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=4e-5, betas=(0.9, 0.999), weight_decay=0.05),
    constructor='mmswinv2.SwinLayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(layer_decay_rate=0.95),
)
auto_scale_lr = dict(enable=False, base_batch_size=16)
