# DeepSpeed's ZeRO, stage 3: weights are sharded over the GPUs too.
_base_ = 'zero1.py'

strategy = dict(zero_optimization=dict(stage=3))
