# The authors' SimMIM recipe for SwinV2-B: AdamW, lr 1e-4 for every 512 images, weight decay 0.05,
# 800 epochs, 10 of them warm-up, a tenth of the rate from epoch 700, gradients clipped at 5.
# The batch, 2048, is not given for SwinV2; it is that of SimMIM's own code.
# Precision: mixed, float16, by default in the authors' code; `tools/train.py --amp` does the same.
# Weight decay: none on norms, biases, mask_token, cpb_mlp and logit_scale, as in their code for
# classification. Their pre-training code intends the same but decays the last two: it looks for
# `encoder.cpb_mlp` and `encoder.logit_scale`, which no parameter name contains. To do the same:
#   paramwise_cfg=dict(custom_keys={'cpb_mlp.0.weight': dict(decay_mult=1),
#                                   'cpb_mlp.2.weight': dict(decay_mult=1),
#                                   'logit_scale': dict(decay_mult=1)})
max_epochs = 800
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs)
param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=5e-7 / 1e-4,
        by_epoch=True,
        begin=0,
        end=10,
        convert_to_iter_based=True,
    ),
    dict(
        type='MultiStepLR',
        by_epoch=True,
        begin=0,  # milestones are counted from here
        end=max_epochs,
        milestones=[700],
        gamma=0.1,
        convert_to_iter_based=True,
    ),
]
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-4 * 2048 / 512, betas=(0.9, 0.999), weight_decay=0.05),
    constructor='mmswinv2.SwinLayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(no_decay_names=['mask_token']),
    clip_grad=dict(max_norm=5.0),
)
auto_scale_lr = dict(enable=False, base_batch_size=2048)
