# torch's own way to spread weights, gradients and the optimizer's state over the GPUs; checkpoints
# are plain files.
runner_type = 'FlexibleRunner'
strategy = dict(type='mmswinv2.FSDPStrategy')
