import pytest
import torch
from mmengine.runner.checkpoint import load_checkpoint
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

from mmswinv2.checkpoints import CheckpointError, convert_file, load_pretrained, load_whole_model
from mmswinv2.checkpoints.adapters import leave_out_base, mark
from mmswinv2.checkpoints.formats import unwrapped
from mmswinv2.core import find_lora, merge_lora
from mmswinv2.core.lora import is_adapter
from mmswinv2.models import SwinTransformerV2

SMALL = dict(embed_dims=12, depths=(2, 2), num_heads=(2, 3))


def draw(module, seed):
    torch.manual_seed(seed)
    for p in module.parameters():
        nn.init.normal_(p, std=0.2)
    return module


class Model(nn.Module):
    """A backbone and a head."""

    def __init__(self, arch=SMALL, init_cfg=None, **options):
        super().__init__()
        init_cfg = init_cfg and dict(type='Pretrained', checkpoint=str(init_cfg))
        defaults = dict(window_size=4, out_indices=(0, 1), drop_path_rate=0.0, init_cfg=init_cfg)
        self.backbone = SwinTransformerV2(arch, **{**defaults, **options})
        self.head = nn.Linear(24, 3)

    def forward(self, x):
        return self.head(self.backbone(x)[1].mean((2, 3)))


@pytest.fixture
def published(save):
    state = draw(SwinTransformerV2(SMALL, window_size=4, out_indices=(0, 1)), 3).state_dict()
    return save({'model': {k: v for k, v in state.items() if not k.startswith('norm0')}}, 'pub.pth')


@pytest.fixture
def trained(published):
    """A model whose adapters, norms and head have changed from their initial values."""
    model = Model(init_cfg=published, lora=dict(rank=2, alpha=3))
    model.backbone.init_weights()
    torch.manual_seed(5)
    for p in model.parameters():
        if p.requires_grad:
            p.data += 0.1 * torch.randn_like(p)
    return model


@pytest.fixture
def adapters(trained, save):
    return save(slim(trained), 'adapters.pth')


def slim(model):
    checkpoint = dict(state_dict=model.state_dict(), meta={})
    leave_out_base(model, checkpoint)
    return checkpoint


def same(a, b):
    x = torch.rand(1, 3, 40, 30)
    return torch.equal(a.eval()(x), b.eval()(x))


def doors(model, path):
    """All ways to load weights into a whole model."""
    yield lambda: load_whole_model(model, path)
    yield lambda: load_checkpoint(model, str(path), 'cpu', strict=True)
    yield lambda: load_checkpoint(model, str(path), 'cpu')


each_door = pytest.mark.parametrize(
    'door', range(3), ids=['load_whole_model', 'strict', 'what fits']
)


def test_a_checkpoint_holds_what_is_trained(trained, published):
    checkpoint = dict(state_dict=trained.state_dict(), meta={'seed': 1})
    checkpoint['ema_state_dict'] = {f'module.{k}': v for k, v in checkpoint['state_dict'].items()}
    checkpoint['ema_state_dict']['steps'] = torch.tensor(1)
    (told,) = leave_out_base(trained, checkpoint)
    learnt = {n for n, p in trained.named_parameters() if p.requires_grad}
    assert set(checkpoint['state_dict']) == learnt
    assert set(checkpoint['ema_state_dict']) == {f'module.{n}' for n in learnt} | {'steps'}
    left_out = len(trained.state_dict()) - len(learnt)
    assert told == f'backbone: saved without {left_out} weights of {published}'
    note = checkpoint['meta']['lora']['backbone.']
    assert set(note['alphas'].values()) == {3.0} and len(note['alphas']) == 16
    assert note['source'] == str(published) and isinstance(note['base'], int)


@each_door
def test_adapters_load_on_top_of_the_published_file(trained, adapters, published, door, log):
    model = Model(init_cfg=published, lora=dict(rank=2, alpha=3))
    list(doors(model, adapters))[door]()
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in trained.state_dict().items())
    assert same(model, trained)
    if door:
        assert 'missing 0, unexpected 0' in log()
        assert f'adapters of 16 layers; 55 weights below them from {published}' in log()


@each_door
def test_merged_weights_load_with_and_without_adapters(trained, save, door):
    before = Model(lora=dict(rank=2, alpha=3))
    before.load_state_dict(trained.state_dict())
    merge_lora(trained)
    path = save({'state_dict': trained.state_dict()}, 'merged.pth')
    plain, adapted = Model(), draw(Model(lora=dict(rank=4)), 8)
    for model in (plain, adapted):
        list(doors(model, path))[door]()
        assert same(model, trained)
    x = torch.rand(1, 3, 40, 30)
    torch.testing.assert_close(before.eval()(x), plain(x), rtol=0, atol=1e-6)
    assert all(not layer.lora_up.weight.any() for layer in find_lora(adapted).values())


def test_weights_that_init_cfg_does_not_give_are_kept(trained, save):
    trained.backbone.layers[1].blocks[0].attn.proj.weight.data[0, 0] += 1e-3
    checkpoint = dict(state_dict=trained.state_dict(), meta={})
    (told,) = leave_out_base(trained, checkpoint)
    assert 'backbone: saved whole, as its weights are not those of' in told
    assert set(checkpoint['state_dict']) == set(trained.state_dict())
    model = Model(lora=dict(rank=2, alpha=3))  # loading needs no init_cfg
    load_whole_model(model, save(checkpoint))
    assert same(model, trained)


def wrap(model, how):
    if how == 'compiled':
        model.backbone = torch.compile(model.backbone, backend='eager')
    if how == 'checkpointed':
        stage = model.backbone.layers[0]
        stage.blocks[0] = checkpoint_wrapper(stage.blocks[0])
    return model


WAYS = ('plain', 'compiled', 'checkpointed')


@pytest.mark.parametrize('written', WAYS)
@pytest.mark.parametrize('loaded', WAYS)
def test_wrapped_and_plain_models_share_adapters(trained, published, save, written, loaded):
    path = save(slim(wrap(trained, written)))
    model = wrap(Model(init_cfg=published, lora=dict(rank=2, alpha=3)), loaded)
    load_checkpoint(model, str(path), 'cpu')
    wanted = {unwrapped(key): value for key, value in trained.state_dict().items()}
    assert all(torch.equal(v, wanted[unwrapped(k)]) for k, v in model.state_dict().items())
    other = wrap(Model(init_cfg=published, lora=dict(rank=2, alpha=16)), loaded)
    with pytest.raises(CheckpointError, match='was trained with alpha=3'):
        load_checkpoint(other, str(path), 'cpu')


def test_without_adapters_nothing_is_left_out(published):
    model = Model(init_cfg=published, frozen_stages=1)
    model.backbone.init_weights()
    checkpoint = slim(model)
    assert checkpoint['state_dict'].keys() == model.state_dict().keys() and checkpoint['meta'] == {}


def test_a_copy_that_is_frozen_whole_takes_adapters(trained, adapters, published):
    model = Model(init_cfg=published, lora=dict(rank=2, alpha=3)).requires_grad_(False)  # EMAHook's
    load_whole_model(model, adapters)
    assert same(model, trained)


def test_the_mark_tells_weights_apart():
    one, other = (draw(nn.Linear(9, 4), seed).state_dict() for seed in (0, 1))
    assert mark(one, ['weight', 'bias']) == mark(one, ['bias', 'weight']) != mark(other, list(one))
    moved = {f'a.{k}': v for k, v in one.items()}
    assert mark(moved, list(one), 'a.') == mark(one, one)


def test_a_pretrained_file_may_not_have_adapters(trained, adapters, save):
    for path in adapters, save({'state_dict': trained.state_dict()}, 'whole.pth'):
        for load in (lambda p: load_pretrained(Model().backbone, p), convert_file):
            with pytest.raises(CheckpointError, match='have adapters .*merge them first'):
                load(path)


def test_new_adapters_are_not_missing_in_a_pretrained_file(published):
    model = Model(lora=dict(rank=2))
    report = load_pretrained(model.backbone, published)
    assert report.missing == ['norm0.weight', 'norm0.bias'] and len(report.new) == 32


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        (dict(lora=None), r'adapters \(LoRA\) of rank 2, and the backbone of the config has none'),
        (dict(lora=dict(rank=3, alpha=3)), 'the config makes 16 of rank 3; the first that differs'),
        (dict(lora=dict(rank=2, alpha=3, targets=['qkv'])), '16 of rank 2, and the config makes 4'),
        (dict(lora=dict(rank=2)), r'trained with alpha=3.0 for backbone.layers.0.* says 2; set'),
        (dict(init_cfg=None), 'without the weights they were added to .*init_cfg does not give'),
        (
            dict(arch=dict(SMALL, embed_dims=24)),
            r'another backbone, .*attn.qkv.lora_down.weight \(\(2, 12\) in the file, here \(2, 24',
        ),
        (dict(arch=dict(SMALL, depths=(2, 4))), r'16 of rank 2, and the config makes 24 of rank 2'),
    ],
    ids=['no adapters', 'rank', 'targets', 'alpha', 'no base', 'width', 'depth'],
)
@each_door
def test_adapters_that_do_not_fit(adapters, published, options, words, door):
    model = Model(**{'init_cfg': published, 'lora': dict(rank=2, alpha=3), **options})
    before = {k: v.clone() for k, v in model.state_dict().items() if 'head' in k or is_adapter(k)}
    with pytest.raises(CheckpointError, match=words):
        list(doors(model, adapters))[door]()
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in before.items())


def test_adapters_of_other_weights(adapters, save):
    other = save(
        {'model': draw(SwinTransformerV2(SMALL, window_size=4, out_indices=(0, 1)), 9).state_dict()}
    )
    model = Model(init_cfg=other, lora=dict(rank=2, alpha=3))
    with pytest.raises(
        CheckpointError, match=r'added to other weights \(.*pub.pth\) than .*swin.pth'
    ):
        load_whole_model(model, adapters)


@pytest.mark.parametrize(
    'note', [None, 3, {'backbone.': 3}, {'backbone.': {'alphas': [1]}}], ids=str
)
def test_files_that_say_nothing_of_their_adapters(trained, published, save, note):
    checkpoint = slim(trained)
    checkpoint['meta']['lora'] = note
    model = Model(init_cfg=published, lora=dict(rank=2, alpha=3))
    load_whole_model(model, save(checkpoint))
    assert same(model, trained)


def test_a_missing_weight_of_the_head_is_missing(trained, published, save):
    checkpoint = slim(trained)
    del checkpoint['state_dict']['head.bias'], checkpoint['state_dict']['backbone.norm0.bias']
    path = save(checkpoint)
    model = Model(init_cfg=published, lora=dict(rank=2, alpha=3))
    with pytest.raises(CheckpointError, match='missing in the file: 2, e.g. backbone.norm0.bias'):
        load_whole_model(model, path)
