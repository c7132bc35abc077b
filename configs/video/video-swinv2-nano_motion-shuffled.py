# The control of video-swinv2-nano_motion.py: the same network on the same clips, their frames in
# random order. Accuracy that remains does not come from the direction of motion.
_base_ = 'video-swinv2-nano_motion.py'

test_pipeline = [
    dict(type='mmswinv2.VideoInit'),
    dict(type='SampleFrames', clip_len=8, frame_interval=2, num_clips=1, test_mode=True),
    dict(type='mmswinv2.ShuffleFrames'),
    dict(type='mmswinv2.VideoDecode'),
    dict(type='FormatShape', input_format='NCTHW'),
    dict(type='PackActionInputs'),
]
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
