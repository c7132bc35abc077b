# Multi-scale and flip testing of boxes and masks, with tools/test.py --tta
tta_model = dict(type='mmswinv2.InstanceSegTTAModel')
# Not given in the paper: scales, and whether a scale gives boxes of certain sizes only
# (tta_cfg=dict(size_ranges=...)). Flips are as in the usual multi-scale test.
tta_pipeline = [
    dict(type='LoadImageFromFile', imdecode_backend='pillow'),
    dict(
        type='TestTimeAug',
        transforms=[
            [
                dict(type='Resize', scale=(side * 5 // 3, side), keep_ratio=True)
                for side in (600, 800, 1000, 1200, 1400, 1600)
            ],
            [dict(type='RandomFlip', prob=0.0), dict(type='RandomFlip', prob=1.0)],
            [dict(type='PackDetInputs')],
        ],
    ),
]
