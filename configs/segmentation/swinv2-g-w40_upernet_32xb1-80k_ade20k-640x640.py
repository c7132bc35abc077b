# UperNet, SwinV2-G, window 40, 640x640.
# Expected mIoU: 59.1 at one scale (paper). Measured: not reproduced here.
# The authors released no weights of G; set model.backbone.init_cfg to a file of your own.
# NNODES=4 NODE_RANK=0 MASTER_ADDR=... tools/dist_train.sh \
#     configs/segmentation/swinv2-g-w40_upernet_32xb1-80k_ade20k-640x640.py 8
_base_ = ['swinv2-l-w40_upernet_8xb8-40k_ade20k-640x640.py', '../_base_/strategies/zero1.py']

max_iters = 80000  # 80k x batch 32
warmup = 750
model = dict(
    backbone=dict(
        arch='giant',
        drop_path_rate=0.4,
        windows_at_once=[16, 16, None, None],  # stages as in the paper, which gives no numbers
        init_cfg=None,
    ),
    decode_head=dict(in_channels=[512, 1024, 2048, 4096]),
    auxiliary_head=dict(in_channels=2048),
)
train_dataloader = dict(batch_size=1)  # on 32 GPUs
train_cfg = dict(max_iters=max_iters, val_interval=8000)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=warmup),
    dict(type='PolyLR', power=1.0, eta_min=0.0, by_epoch=False, begin=warmup, end=max_iters),
]
optim_wrapper = dict(optimizer=dict(lr=4e-5))
auto_scale_lr = dict(base_batch_size=32)
