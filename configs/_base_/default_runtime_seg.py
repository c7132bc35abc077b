_base_ = 'default_runtime.py'

default_scope = 'mmseg'
default_hooks = dict(
    logger=dict(log_metric_by_epoch=False),
    checkpoint=dict(by_epoch=False, interval=4000),
    visualization=dict(type='SegVisualizationHook'),
)
# TensorBoard: --cfg-options visualizer.vis_backends.0.type=TensorboardVisBackend
visualizer = dict(
    type='SegLocalVisualizer',
    name='visualizer',
    vis_backends=[dict(type='LocalVisBackend')],
)
log_processor = dict(by_epoch=False)
tta_model = dict(type='SegTTAModel')
