"""Whole classifiers and SimMIM, from every format that has a head."""

import pytest
import torch
from mmengine.optim import build_optim_wrapper

from benchmarks import peers
from mmswinv2.checkpoints import CheckpointError, load_whole_model, read_class_map
from mmswinv2.core.attention import log_coordinates
from tests.test_pretrain.conftest import CLASSIFIER, SIMMIM, build
from tests.test_tools.conftest import ROOT

TINY = 'configs/classification/swinv2-tiny-w8_16xb64_in1k-256px.py'
TUNED = 'configs/classification/swinv2-base-w16_in22k-pre_16xb64_in1k-256px.py'
CLASSES = 7


def timm(image, window, pretrained):
    model, *_ = peers.timm('tiny', image, (window,), pretrained)
    return model, model


def torchvision(image, window, pretrained):
    model, *_ = peers.torchvision('tiny', image, (window,), pretrained)
    return model, model


def transformers(image, window, pretrained):
    from transformers import Swinv2Config, Swinv2ForImageClassification

    dim, depths, heads = peers.SIZES['tiny']
    config = Swinv2Config(
        image_size=image, embed_dim=dim, depths=depths, num_heads=heads, window_size=window,
        pretrained_window_sizes=pretrained, num_labels=CLASSES, drop_path_rate=0.0,
    )  # fmt: skip
    model = peers.randomise(Swinv2ForImageClassification(config))
    return model, lambda x: model(pixel_values=x).logits


def mmpretrain(image, window, pretrained):
    model = build(
        TINY,
        model__head__num_classes=CLASSES,
        model__backbone=dict(
            _delete_=True, type='SwinTransformerV2', arch='tiny', img_size=image,
            window_size=[window] * 4, pretrained_window_sizes=list(pretrained), drop_path_rate=0.0,
        ),
    )  # fmt: skip
    return peers.randomise(model), model


@pytest.mark.parametrize('peer', [timm, transformers, torchvision, mmpretrain])
@pytest.mark.parametrize('pretrained', [0, 6])
def test_logits_are_theirs(peer, pretrained, tmp_path):
    if peer is torchvision and pretrained:
        pytest.skip('torchvision knows no pre-trained windows')
    theirs, run = peer(256, 8, (pretrained,) * 4)
    torch.save(theirs.state_dict(), tmp_path / 'peer.pth')
    ours = build(
        TINY,
        model__head__num_classes=CLASSES,
        model__backbone__pretrained_window_sizes=pretrained or 8,
    )
    report = load_whole_model(ours, tmp_path / 'peer.pth')
    assert report.format == peer.__name__ and not report.new
    x = torch.randn(2, 3, 256, 256, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        want, got = run(x), ours.eval()(x)
    assert want.shape == got.shape == (2, CLASSES)
    assert (want - got).abs().max() <= 1e-5 * want.abs().max()


def authors(model, prefix='', start='', windows=None):
    """The weights of a whole model in the format of the authors' files."""
    state = {}
    for key, value in model.state_dict().items():
        key = key.replace('backbone.norm3.', f'{start}norm.').replace('backbone.', start)
        state[key.replace('head.fc.', 'head.').replace('neck.decoder.', 'decoder.')] = value
    for stage, window in enumerate(windows or ()):
        table = log_coordinates((window,) * 2, (window,) * 2)[None]
        state[f'{start}layers.{stage}.blocks.0.attn.relative_coords_table'] = table
    return state


def test_authors_classifier(tmp_path):
    theirs = peers.randomise(build(CLASSIFIER))
    torch.save(dict(model=authors(theirs, windows=(8, 8, 8, 8))), tmp_path / 'a.pth')
    ours = build(CLASSIFIER)
    report = load_whole_model(ours, tmp_path / 'a.pth')
    assert (report.format, report.unused) == ('authors', [])
    assert all(torch.equal(v, ours.state_dict()[k]) for k, v in theirs.state_dict().items())


def test_windows_of_the_file_count(tmp_path):
    torch.save(dict(model=authors(build(CLASSIFIER), windows=(8, 8, 8, 4))), tmp_path / 'a.pth')
    ours = build(CLASSIFIER)
    before = {k: v.clone() for k, v in ours.state_dict().items()}
    with pytest.raises(CheckpointError, match=r'set pretrained_window_sizes=\[8, 8, 8, 4\]'):
        load_whole_model(ours, tmp_path / 'a.pth')
    assert all(torch.equal(v, before[k]) for k, v in ours.state_dict().items())


def test_authors_simmim(tmp_path):
    theirs = peers.randomise(build(SIMMIM))
    state = authors(theirs, start='encoder.', windows=(8, 8, 8, 8))
    state = {k.replace('cpb_mlp', 'rpe_mlp'): v for k, v in state.items()}
    assert {'encoder.mask_token', 'encoder.norm.weight', 'decoder.0.weight'} <= set(state)
    torch.save(dict(model=state), tmp_path / 'a.pth')
    ours = build(SIMMIM)
    report = load_whole_model(ours, tmp_path / 'a.pth')
    assert len(report.loaded) == len(theirs.state_dict())
    assert all(torch.equal(v, ours.state_dict()[k]) for k, v in theirs.state_dict().items())


def test_simmim_of_transformers(tmp_path):
    from transformers import Swinv2Config, Swinv2ForMaskedImageModeling

    config = Swinv2Config(
        image_size=96, embed_dim=32, depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 8), window_size=8,
        encoder_stride=32,
    )  # fmt: skip
    theirs = peers.randomise(Swinv2ForMaskedImageModeling(config))
    torch.save(theirs.state_dict(), tmp_path / 'a.pth')
    ours = build(SIMMIM).eval()
    load_whole_model(ours, tmp_path / 'a.pth')
    assert torch.equal(ours.neck.decoder[0].weight, theirs.decoder[0].weight)
    assert torch.equal(ours.backbone.mask_token, theirs.swinv2.embeddings.mask_token)


def test_class_map(tmp_path):
    big = peers.randomise(build(CLASSIFIER, model__head__num_classes=21))
    torch.save(dict(model=authors(big)), tmp_path / 'a.pth')
    (tmp_path / 'map.txt').write_text('20\n3\n3\n0\n')
    small = build(CLASSIFIER)
    load_whole_model(small, tmp_path / 'a.pth', class_map=read_class_map(tmp_path / 'map.txt'))
    for name in ('weight', 'bias'):
        want = getattr(big.head.fc, name)[[20, 3, 3, 0]]
        assert torch.equal(getattr(small.head.fc, name), want)


@pytest.mark.parametrize(
    ('text', 'match'),
    [
        ('20\nx\n', "line 2: a class map has one number of a class a line, got 'x'"),
        ('20\n21\n0\n0\n', 'class_map names class 21, and the head of .* has 21, from 0'),
        ('20\n', 'class_map has 1 entries, and model.head 4 classes'),
        ('', 'line 1'),
        ('²\n', "line 1: .* got '²'"),
    ],
)
def test_wrong_class_map(text, match, tmp_path):
    torch.save(dict(model=authors(build(CLASSIFIER, model__head__num_classes=21))), tmp_path / 'a')
    (tmp_path / 'map.txt').write_text(text)
    with pytest.raises(CheckpointError, match=match):
        load_whole_model(
            build(CLASSIFIER), tmp_path / 'a', class_map=read_class_map(tmp_path / 'map.txt')
        )


def test_class_map_and_a_new_head(tmp_path):
    torch.save(build(CLASSIFIER).state_dict(), tmp_path / 'a')
    with pytest.raises(CheckpointError, match='both say how the head starts'):
        load_whole_model(build(CLASSIFIER), tmp_path / 'a', new=['head.'], class_map=[0, 1, 2, 3])


def test_nothing_of_the_file_is_passed_over(tmp_path):
    state = authors(build(SIMMIM), start='encoder.')
    torch.save(dict(model={**state, 'adapter.weight': torch.ones(2)}), tmp_path / 'a')
    with pytest.raises(CheckpointError, match='not in the model: 1, e.g. adapter.weight'):
        load_whole_model(build(SIMMIM), tmp_path / 'a')
    torch.save(dict(model=state), tmp_path / 'a')
    with pytest.raises(CheckpointError, match='missing in the file: 2, e.g. head.fc.weight'):
        load_whole_model(build(CLASSIFIER), tmp_path / 'a')


def test_head_of_other_classes(tmp_path):
    torch.save(dict(model=authors(build(CLASSIFIER, model__head__num_classes=21))), tmp_path / 'a')
    ours = build(CLASSIFIER)
    with pytest.raises(CheckpointError, match=r'has 21 classes, .* 4: .*--class-map'):
        load_whole_model(ours, tmp_path / 'a')
    assert load_whole_model(ours, tmp_path / 'a', new=['head.']).new == [
        'head.fc.weight',
        'head.fc.bias',
    ]


def test_a_classifier_with_the_default_outputs_trains_all_of_it():
    model = build(CLASSIFIER, model__backbone=dict(_delete_=True, type='mmswinv2.SwinTransformerV2',
                                                   arch='nano'))  # fmt: skip
    score = model.head.fc(model.extract_feat(torch.rand(2, 3, 64, 64))[-1])
    score.sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_layer_decay_of_mmpretrain():
    model = build(CLASSIFIER)
    wrapper = build_optim_wrapper(
        model,
        dict(
            optimizer=dict(type='AdamW', lr=1.0, weight_decay=0.05),
            constructor='LearningRateDecayOptimWrapperConstructor',
            paramwise_cfg=dict(layer_decay_rate=0.5),
        ),
    )
    rates = {group['param_name']: group['lr'] for group in wrapper.optimizer.param_groups}
    assert rates['head.fc.weight'] == rates['backbone.norm3.bias'] == 1
    assert rates['backbone.layers.3.blocks.1.attn.q_bias'] == 0.5
    assert rates['backbone.layers.0.downsample.reduction.weight'] == 0.5**9
    assert rates['backbone.patch_embed.proj.weight'] == 0.5**12


def get_model(config, path):
    from mmpretrain import get_model

    return get_model(str(config), pretrained=str(path))


@pytest.mark.parametrize('peer', [timm, transformers, mmpretrain])
def test_get_model_takes_weights_of_any_format(peer, tmp_path):
    theirs, run = peer(256, 8, (0,) * 4)
    torch.save(theirs.state_dict(), tmp_path / 'peer.pth')
    config = tmp_path / 'config.py'
    config.write_text(f"_base_ = '{ROOT / TINY}'\nmodel = dict(head=dict(num_classes={CLASSES}))\n")
    ours = get_model(config, tmp_path / 'peer.pth')
    x = torch.randn(1, 3, 256, 256, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(ours(x, mode='tensor'), run(x), rtol=1e-4, atol=1e-4)


def test_get_model_refuses_what_does_not_fit(tmp_path):
    import timm

    torch.save(timm.create_model('resnet18', pretrained=False).state_dict(), tmp_path / 'x.pth')
    with pytest.raises(CheckpointError, match='x.pth: no SwinV2 in these'):
        get_model(ROOT / TINY, tmp_path / 'x.pth')
    peer, _ = transformers(256, 8, (0,) * 4)
    torch.save(peer.swinv2.state_dict(), tmp_path / 'x.pth')
    with pytest.raises(CheckpointError, match='holds a backbone alone'):
        get_model(ROOT / TINY, tmp_path / 'x.pth')
