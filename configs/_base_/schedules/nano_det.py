# Nano's schedule counts iterations, and the runtime of detectors epochs.
_base_ = ['nano.py', '../default_runtime_det.py']

log_processor = dict(by_epoch=False)
default_hooks = dict(
    logger=dict(log_metric_by_epoch=False),
    checkpoint=dict(by_epoch=False, interval=325),
)
