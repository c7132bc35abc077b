# SimMIM for SwinV2-G at 192 pixels: the paper's recipe (AdamW, lr 1.4e-3, weight decay 0.1, 20
# epochs of batch 9216, 30,000 steps of warm-up, gradients clipped at 100). ImageNet-22K-ext, 70
# million images, was not published; data/imagenet22k-ext stands for your own data.
# Not given in the paper: drop path, decay (here cosine to 0), normalization of the target (as B).
_base_ = [
    '../_base_/models/simmim_swinv2.py',
    '../_base_/datasets/imagenet_simmim_192.py',
    '../_base_/schedules/simmim_800e.py',
    '../_base_/default_runtime_cls.py',
    '../_base_/strategies/zero1.py',
]

model = dict(
    backbone=dict(arch='giant', with_cp=True),
    neck=dict(in_channels=4096),
)
data_root = 'data/imagenet22k-ext/'
train_dataloader = dict(batch_size=96, dataset=dict(data_root=data_root))
max_epochs = 20
warmup = 30000  # steps
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=warmup),
    dict(
        type='CosineAnnealingLR',
        by_epoch=True,
        begin=4,  # epochs, at least the warm-up (7595 steps each for 70 million images)
        end=max_epochs,
        eta_min=0,
        convert_to_iter_based=True,
    ),
]
optim_wrapper = dict(
    optimizer=dict(lr=1.4e-3, weight_decay=0.1),
    clip_grad=dict(max_norm=100.0),
)
default_hooks = dict(checkpoint=dict(interval=1))
auto_scale_lr = dict(base_batch_size=9216)
