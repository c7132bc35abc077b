# SwinV2-G, fine-tuned to ImageNet-1K at 640 pixels: the paper's recipe (10 epochs of batch 576, 2
# of them warm-up).
# Expected top-1: 90.17, and 84.00 on ImageNet-V2 (paper). Measured: not reproduced here.
# The authors released no weights of G; the hook below needs a file of your own, and tools/train.py
# a --class-map to select the rows of the head.
# Not given in the paper: the window, layer decay, crop of the test, ends of warm-up and cosine.
_base_ = [
    '../_base_/models/swinv2_classifier.py',
    '../_base_/datasets/imagenet_384.py',
    '../_base_/schedules/imagenet_finetune_30e.py',
    '../_base_/default_runtime_cls.py',
    '../_base_/strategies/zero1.py',
]

model = dict(
    backbone=dict(
        arch='giant',
        window_size=[40, 40, 40, 20],
        pretrained_window_sizes=[12, 12, 12, 6],
        drop_path_rate=0.5,
        with_cp=True,
        windows_at_once=[16, 16, None, None],  # stages as in the paper, which gives no numbers
    ),
    head=dict(in_channels=4096),
)
train_pipeline = [
    {{_base_.load_image}},
    dict(type='RandomResizedCrop', scale=640, backend='pillow', interpolation='bicubic'),
    {{_base_.flip}},
    {{_base_.rand_augment}},
    {{_base_.erase}},
    {{_base_.pack}},
]
test_pipeline = [
    {{_base_.load_image}},
    dict(type='Resize', scale=(640, 640), backend='pillow', interpolation='bicubic'),
    {{_base_.pack}},
]
train_dataloader = dict(batch_size=6, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(batch_size=6, dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
max_epochs = 10
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=1e-3,
        by_epoch=True,
        begin=0,
        end=2,
        convert_to_iter_based=True,
    ),
    dict(
        type='CosineAnnealingLR',
        by_epoch=True,
        begin=2,
        end=max_epochs,
        eta_min=0,
        convert_to_iter_based=True,
    ),
]
optim_wrapper = dict(
    optimizer=dict(lr=2.1e-5, weight_decay=0.1),
    clip_grad=dict(max_norm=100.0),
)
auto_scale_lr = dict(base_batch_size=576)
custom_hooks = [
    dict(
        type='mmswinv2.LoadCheckpointHook',
        checkpoint='work_dirs/swinv2-giant-w12_96xb96_in22k-ext-192px/epoch_30.pth',
    ),
]
