"""Key tables of the published formats.

Each format is a table of rules from its keys to ours (which are the authors' own), tried in order;
a key that no rule matches is an error. What renaming cannot do, such as joining weights, is done by
a `prepare` step on the tensors, still under the old names. To add a format, add an entry to
`FORMATS`.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

State = dict[str, Tensor]
PATCHES = 'patch_embed.proj.weight'  # our key of the patch embedding
Windows = dict[int, tuple[int, ...]]  # stage to window size per axis
# a pattern of the whole key, and its new name (None: the backbone has no such weight)
Rule = tuple[str, str | Callable[[re.Match[str]], str] | None]

_WB = r'(weight|bias)'
_CPB = r'(0\.weight|0\.bias|2\.weight)'
_ATTN = r'(q_bias|v_bias|logit_scale|qkv\.weight|proj\.weight|proj\.bias)'
# what torch's wrappers of modules add to keys
_WRAPPERS = re.compile(r'\b(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.')


def unwrapped(key: str) -> str:
    """A key as it was before torch wrapped the module that it belongs to."""
    return _WRAPPERS.sub('', key)


@dataclass(frozen=True)
class Format:
    """One way of naming SwinV2's weights."""

    title: str  #: for reports
    anchor: str  #: the key of the patch projection; what precedes it in a file is the prefix
    marker: str  #: a pattern that some key must match, to tell formats with equal anchors apart
    rules: list[Rule]  #: the first that matches a key counts
    prepare: Callable[[State], State] = dict  #: before the rules, changes tensors and keys
    absent: str = '(?!)'  #: a pattern that no key may match; this one matches nothing


def _join_qkv(state: State) -> State:
    """Transformers has three weights for query, key and value."""
    state = dict(state)
    for key in [k for k in state if k.endswith('.self.query.weight')]:
        parts = [state.pop(key.replace('query', name)) for name in ('query', 'key', 'value')]
        state[key.replace('query', 'qkv')] = torch.cat(parts)
    return state


def _join_stage_names(state: State) -> State:
    """Classifiers of timm have ``layers.0`` where ``features_only=True`` has ``layers_0``."""
    return {re.sub(r'^layers_(\d+)\.', r'layers.\1.', key): v for key, v in state.items()}


def _split_qkv_bias(state: State) -> State:
    """Torchvision has one bias for q, k and v, and zeroes that of k at every forward."""
    state = dict(state)
    for key in [k for k in state if k.endswith('.attn.qkv.bias')]:
        q, _, v = state.pop(key).chunk(3)
        state[key.replace('qkv.bias', 'q_bias')] = q
        state[key.replace('qkv.bias', 'v_bias')] = v
    return state


def _reorder_reduction(state: State) -> State:
    """Mmpretrain merges patches with `nn.Unfold`: channels first, then row-major offsets."""
    state = dict(state)
    for key in [k for k in state if k.endswith('.downsample.reduction.weight')]:
        weight = state[key]
        offsets = weight.reshape(len(weight), -1, 4).transpose(1, 2)[:, [0, 2, 1, 3]]
        state[key] = offsets.reshape(len(weight), -1)
    return state


def _each(start: str, new_start: str, names: dict[str, str]) -> list[Rule]:
    """Rules with a common start; `names` maps the rest of a key to the rest of its new name."""
    return [(start + rest, new_start + new) for rest, new in names.items()]


def _of_stage_before(match: re.Match[str]) -> str:
    """Our name of patch merging, which other formats have at the start of the next stage."""
    return f'layers.{int(match[1]) - 1}.downsample.{match[2]}'


_MERGING = rf'(reduction\.weight|norm\.{_WB})'
_LAST_NORM: Rule = (rf'norm\.{_WB}', r'norm{last}.\1')
_MLP = {'mlp.0': 'mlp.fc1', 'mlp.3': 'mlp.fc2'}  # torchvision's are a Sequential
_AUTHORS: list[Rule] = [
    (rf'patch_embed\.(proj|norm)\.{_WB}', r'patch_embed.\1.\2'),
    *_each(
        r'(layers\.\d+\.blocks\.\d+)\.',
        r'\1.',
        {
            rf'(norm1|norm2|enorm|mlp\.fc1|mlp\.fc2)\.{_WB}': r'\2.\3',
            rf'attn\.{_ATTN}': r'attn.\2',
            rf'attn\.(?:cpb_mlp|rpe_mlp)\.{_CPB}': r'attn.cpb_mlp.\2',
        },
    ),
]

FORMATS: dict[str, Format] = {
    'authors': Format(
        title="the authors' (classification, SimMIM, downstream) or mmswinv2's own",
        anchor=PATCHES,
        # a first stage alone has nothing to merge
        marker=r'layers\.0\.downsample\.reduction\.weight|norm0\.weight',
        rules=[
            *_AUTHORS,
            (rf'(layers\.\d+\.downsample)\.{_MERGING}', r'\1.\2'),
            (rf'norm(\d)\.{_WB}', r'norm\1.\2'),
            _LAST_NORM,
            (r'mask_token', None),
        ],
    ),
    'timm': Format(
        title='timm',
        anchor=PATCHES,
        marker=r'layers[._]1\.downsample\.reduction\.weight',
        absent=r'layers[._]0\.downsample\.reduction\.weight|norm0\.weight',
        prepare=_join_stage_names,
        rules=[
            *_AUTHORS,
            (rf'layers\.(\d+)\.downsample\.{_MERGING}', _of_stage_before),
            _LAST_NORM,
        ],
    ),
    'transformers': Format(
        title='Hugging Face transformers',
        anchor='embeddings.patch_embeddings.projection.weight',
        marker=r'encoder\.layers\.0\..*\.logit_scale',
        prepare=_join_qkv,
        rules=[
            (rf'embeddings\.patch_embeddings\.projection\.{_WB}', r'patch_embed.proj.\1'),
            (rf'embeddings\.norm\.{_WB}', r'patch_embed.norm.\1'),
            (r'embeddings\.mask_token', None),
            *_each(
                r'encoder\.(layers\.\d+\.blocks\.\d+)\.',
                r'\1.',
                {
                    r'attention\.self\.qkv\.weight': 'attn.qkv.weight',
                    r'attention\.self\.query\.bias': 'attn.q_bias',
                    r'attention\.self\.value\.bias': 'attn.v_bias',
                    r'attention\.self\.logit_scale': 'attn.logit_scale',
                    rf'attention\.self\.continuous_position_bias_mlp\.{_CPB}': r'attn.cpb_mlp.\2',
                    rf'attention\.output\.dense\.{_WB}': r'attn.proj.\2',
                    rf'layernorm_before\.{_WB}': r'norm1.\2',
                    rf'layernorm_after\.{_WB}': r'norm2.\2',
                    rf'intermediate\.dense\.{_WB}': r'mlp.fc1.\2',
                    rf'output\.dense\.{_WB}': r'mlp.fc2.\2',
                },
            ),
            (rf'encoder\.(layers\.\d+\.downsample)\.{_MERGING}', r'\1.\2'),
            (rf'layernorm\.{_WB}', r'norm{last}.\1'),
        ],
    ),
    'torchvision': Format(
        title='torchvision',
        anchor='features.0.0.weight',
        marker=r'features\.1\.0\.attn\.logit_scale',
        prepare=_split_qkv_bias,
        rules=[
            (rf'features\.0\.0\.{_WB}', r'patch_embed.proj.\1'),
            (rf'features\.0\.2\.{_WB}', r'patch_embed.norm.\1'),
            (
                r'features\.(\d+)\.(\d+)\.(norm1|norm2|attn|mlp\.0|mlp\.3)\.(.+)',
                lambda m: f'layers.{int(m[1]) // 2}.blocks.{m[2]}.{_MLP.get(m[3], m[3])}.{m[4]}',
            ),
            (
                rf'features\.(\d+)\.{_MERGING}',
                lambda m: f'layers.{int(m[1]) // 2 - 1}.downsample.{m[2]}',
            ),
            _LAST_NORM,
        ],
    ),
    'mmpretrain': Format(
        title='mmpretrain',
        anchor='patch_embed.projection.weight',
        marker=r'stages\.0\.blocks\.0\.attn\.w_msa\.logit_scale',
        prepare=_reorder_reduction,
        rules=[
            (rf'patch_embed\.projection\.{_WB}', r'patch_embed.proj.\1'),
            (rf'patch_embed\.norm\.{_WB}', r'patch_embed.norm.\1'),
            *_each(
                r'stages(\.\d+\.blocks\.\d+)\.',
                r'layers\1.',
                {
                    rf'attn\.w_msa\.{_ATTN}': r'attn.\2',
                    rf'attn\.w_msa\.cpb_mlp\.{_CPB}': r'attn.cpb_mlp.\2',
                    rf'(norm[12])\.{_WB}': r'\2.\3',
                    rf'norm3\.{_WB}': r'enorm.\2',
                    rf'ffn\.layers\.0\.0\.{_WB}': r'mlp.fc1.\2',
                    rf'ffn\.layers\.1\.{_WB}': r'mlp.fc2.\2',
                },
            ),
            (rf'stages\.(\d+)\.downsample\.{_MERGING}', _of_stage_before),
            (rf'norm(\d)\.{_WB}', r'norm\1.\2'),
        ],
    ),
}

# Weights of classifiers and SimMIM beside the backbone, under mmpretrain's names of a whole model.
# The patterns match keys without the network's prefix.
HEADS: list[Rule] = [
    (rf'(?:head|head\.fc|classifier)\.{_WB}', r'head.fc.\1'),
    (rf'(?:neck\.)?decoder\.0\.{_WB}', r'neck.decoder.0.\1'),
    (r'(?:embeddings\.)?mask_token', 'backbone.mask_token'),
]

# Buffers of any format, which follow from the windows and the image size.
BUFFERS = r'.*\.(relative_coords_table|relative_position_index|attn_mask)'

# Networks with similar keys that cannot be converted, by a pattern of one of their keys.
UNSUPPORTED = {
    r'.*relative_position_bias_table': 'a Swin V1, whose position bias is a table, not an MLP',
    r'.*\.attn\.meta_mlp\..*': "timm's `swinv2_cr`, a network of another build",
    r'.*window_attention\.meta_network\..*': "ChristophReich1996's, a network of another build",
    r'.*\.mlp\.norm\.weight': 'a SwinV2 with a norm inside its MLPs, which is not supported',
}
