_base_ = 'default_runtime.py'

default_scope = 'mmaction'
default_hooks = dict(
    runtime_info=dict(type='RuntimeInfoHook'),
    sync_buffers=dict(type='SyncBuffersHook'),
    visualization=dict(type='VisualizationHook'),
)
visualizer = dict(
    type='ActionVisualizer',
    name='visualizer',
    vis_backends=[dict(type='LocalVisBackend')],
)
log_processor = dict(type='LogProcessor', window_size=20, by_epoch=True)
