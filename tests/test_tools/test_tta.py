from tests.test_tools.conftest import CONFIG, ROOT

BOXES_ALONE = f"""
_base_ = '{ROOT}/{CONFIG}'
model = dict(type='FasterRCNN', roi_head=dict(mask_head=None, mask_roi_extractor=None))
val_evaluator = dict(metric='bbox')
test_evaluator = val_evaluator
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale_factor=1.0, keep_ratio=True),
    dict(type='Pad', size_divisor=64),
    dict(type='PackDetInputs'),
]
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
"""
ALL = ['model.test_cfg.rcnn.score_thr=0.0']  # results of a model that has learned nothing are kept


def test_flipped_views_of_a_box_detector(evaluate, train, shapes, tmp_path):
    """They are padded after the flip, or boxes could not be flipped back."""
    config = tmp_path / 'faster-rcnn_swinv2-nano_shapes.py'
    config.write_text(BOXES_ALONE)
    train(tmp_path, config=config).succeeded()
    run = evaluate(
        config, tmp_path / 'iter_2.pth', tmp_path, '--tta', data_root=shapes, options=ALL
    ).succeeded()
    assert 'DetTTAModel' in run.stdout and 'coco/bbox_mAP' in run.stdout


def test_flipped_views_of_a_mask_detector(evaluate, trained, shapes, tmp_path):
    run = evaluate(
        CONFIG, trained / 'iter_2.pth', tmp_path, '--tta', data_root=shapes, options=ALL
    ).succeeded()
    assert 'InstanceSegTTAModel' in run.stdout and 'coco/segm_mAP' in run.stdout


def test_masks_of_a_model_without_any(evaluate, train, shapes, tmp_path):
    config = tmp_path / 'faster-rcnn_swinv2-nano_shapes.py'
    config.write_text(
        BOXES_ALONE + "tta_model = dict(type='mmswinv2.InstanceSegTTAModel')\n"
        "tta_pipeline = [dict(type='LoadImageFromFile')]\n"
    )
    train(tmp_path, config=config, iters=1).succeeded()
    run = evaluate(config, tmp_path / 'iter_1.pth', tmp_path, '--tta', data_root=shapes)
    assert run.returncode == 1
    assert run.stderr.startswith('error: InstanceSegTTAModel merges masks, and FasterRCNN has no')
