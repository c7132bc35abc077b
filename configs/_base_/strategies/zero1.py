# DeepSpeed's ZeRO, stage 1: the optimizer's state is sharded over the GPUs (paper, section 3.5).
# Needs `pip install deepspeed`. Sections of DeepSpeed's configuration are arguments here.
runner_type = 'FlexibleRunner'
strategy = dict(
    type='mmswinv2.DeepSpeedStrategy',
    # 200 MB in float32; DeepSpeed's own default takes 2 GB of each GPU
    zero_optimization=dict(stage=1, reduce_bucket_size=50_000_000),
)
