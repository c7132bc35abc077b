_base_ = 'default_runtime.py'

default_scope = 'mmdet'
default_hooks = dict(visualization=dict(type='DetVisualizationHook'))
# TensorBoard: --cfg-options visualizer.vis_backends.0.type=TensorboardVisBackend
visualizer = dict(
    type='DetLocalVisualizer',
    name='visualizer',
    vis_backends=[dict(type='LocalVisBackend')],
)
log_processor = dict(type='LogProcessor', window_size=50, by_epoch=True)
