# Every GPU has the whole model, as with a config without a strategy.
runner_type = 'FlexibleRunner'
strategy = dict(type='mmswinv2.DDPStrategy')
