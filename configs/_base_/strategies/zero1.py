# DeepSpeed's ZeRO, stage 1: the optimizer's state is spread over the GPUs (paper, section 3.5).
# Needs `pip install deepspeed`. A section of DeepSpeed's configuration is an argument here.
runner_type = 'FlexibleRunner'
strategy = dict(type='mmswinv2.DeepSpeedStrategy', zero_optimization=dict(stage=1))
