# SimMIM for SwinV2-B, 100 epochs. The authors published this length only for Swin V1; its rate
# (2e-4 for every 512 images) with start and end is used. Here the cosine begins where the warm-up
# ends (theirs counts from epoch 0), and drop path is as for 800 epochs (theirs has none).
_base_ = 'simmim_swinv2-base-w12_16xb128-800e_in1k-192px.py'

max_epochs = 100
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=1e-6 / 2e-4,
        by_epoch=True,
        begin=0,
        end=10,
        convert_to_iter_based=True,
    ),
    dict(
        type='CosineAnnealingLR',
        by_epoch=True,
        begin=10,
        end=max_epochs,
        eta_min=1e-5 * 2048 / 512,
        convert_to_iter_based=True,
    ),
]
optim_wrapper = dict(optimizer=dict(lr=2e-4 * 2048 / 512))
