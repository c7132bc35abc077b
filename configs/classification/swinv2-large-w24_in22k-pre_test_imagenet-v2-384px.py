# SwinV2-L at 384 pixels on ImageNet-V2, matched frequency; for its other two sets:
#   --cfg-options test_dataloader.dataset.data_root=data/imagenetv2-top-images-format-val/
# Expected top-1: 78.31 (paper, which does not name the set). Measured: not reproduced here.
_base_ = 'swinv2-large-w24_in22k-pre_16xb64_in1k-384px.py'

test_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='mmswinv2.ImageNetV2',
        data_root='data/imagenetv2-matched-frequency-format-val/',
        pipeline={{_base_.test_pipeline}},
    ),
)
