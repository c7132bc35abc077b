# UperNet, SwinV2-B, window 40, 640x640: the recipe of the paper's system-level comparison.
# Expected mIoU: not given in the paper. Measured: not reproduced here.
# tools/dist_train.sh configs/segmentation/swinv2-b-w40_upernet_8xb8-40k_ade20k-640x640.py 8
# The paper tests at several scales and flipped: tools/dist_test.sh CONFIG CHECKPOINT 8 --tta
_base_ = [
    '../_base_/models/upernet_swinv2.py',
    '../_base_/datasets/ade20k_640x640.py',
    '../_base_/schedules/upernet_160k.py',
    '../_base_/default_runtime_seg.py',
]

max_iters = 40000  # 40k x batch 64
warmup = 375
model = dict(
    data_preprocessor=dict(size=(640, 640)),
    backbone=dict(
        arch='base',
        # The last stage's map of a 640 crop is 20 wide and limits the window to 20. Setting 20 here
        # gives larger test images the same window as in training.
        window_size=[40, 40, 40, 20],
        pretrained_window_sizes=[12, 12, 12, 6],
        init_cfg=dict(
            # pre-trained on ImageNet-22K; the paper does not say with which file
            checkpoint='swinv2_base_patch4_window12_192_22k',
        ),
    ),
    decode_head=dict(in_channels=[128, 256, 512, 1024]),
    auxiliary_head=dict(in_channels=512),
)
train_dataloader = dict(batch_size=8)  # on 8 GPUs
train_cfg = dict(max_iters=max_iters, val_interval=4000)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=warmup),
    dict(type='PolyLR', power=1.0, eta_min=0.0, by_epoch=False, begin=warmup, end=max_iters),
]
optim_wrapper = dict(
    optimizer=dict(lr=6e-5),
    paramwise_cfg=dict(layer_decay_rate=1.0),  # not given in the paper
)
auto_scale_lr = dict(base_batch_size=64)
