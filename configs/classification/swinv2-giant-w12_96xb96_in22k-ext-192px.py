# SwinV2-G on ImageNet-22K-ext at 192 pixels, after SimMIM: the paper's recipe (30 epochs of batch
# 9216). That data set, of 70 million images, was not published; data/imagenet22k-ext is your own.
# Not given in the paper: its number of classes, the ends of warm-up and cosine.
_base_ = [
    '../_base_/models/swinv2_classifier.py',
    '../_base_/datasets/imagenet22k_192.py',
    '../_base_/schedules/imagenet22k_90e.py',
    '../_base_/default_runtime_cls.py',
    '../_base_/strategies/zero1.py',
]

model = dict(
    backbone=dict(
        arch='giant',
        window_size=[12, 12, 12, 6],
        drop_path_rate=0.3,
        with_cp=True,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='work_dirs/simmim_swinv2-giant-w12_96xb96-20e_in22k-ext-192px/epoch_20.pth',
        ),
    ),
    head=dict(num_classes=21841, in_channels=4096),
)
data_root = 'data/imagenet22k-ext/'
train_dataloader = dict(batch_size=96, dataset=dict(data_root=data_root))
val_dataloader = dict(batch_size=96, dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
max_epochs = 30
warmup = 20000  # steps
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=warmup),
    dict(
        type='CosineAnnealingLR',
        by_epoch=True,
        begin=3,  # epochs, at least the warm-up (7595 steps each for 70 million images)
        end=max_epochs,
        eta_min=0,
        convert_to_iter_based=True,
    ),
]
optim_wrapper = dict(
    optimizer=dict(lr=1.4e-3, weight_decay=0.1),
    paramwise_cfg=dict(layer_decay_rate=0.87),
    clip_grad=dict(max_norm=100.0),
)
auto_scale_lr = dict(base_batch_size=9216)
