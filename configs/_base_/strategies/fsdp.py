# torch's own FSDP: weights, gradients and the optimizer's state are sharded over the GPUs.
# Checkpoints are plain files.
runner_type = 'FlexibleRunner'
strategy = dict(type='mmswinv2.FSDPStrategy')
