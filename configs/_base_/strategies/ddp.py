# Every GPU has the whole model: what a config without a strategy gets, too.
runner_type = 'FlexibleRunner'
strategy = dict(type='mmswinv2.DDPStrategy')
