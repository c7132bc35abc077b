"""A slow and simple reference implementation of SwinV2; shares no code with `mmswinv2`.

`forward` attends over the whole map at once: every pair of tokens gets its bias from the MLP, and
pairs in different windows are masked by comparing labels. `textbook_attention` is the usual
alternative of published implementations, which pad the map.
"""

import functools
import itertools
import math

import torch
import torch.nn.functional as F


def window_labels(size, window, shift):
    """One integer label per token, row-major: two tokens share a window if their labels agree."""
    axes = []
    for n, m, s in zip(size, window, shift, strict=True):
        axes.append([0 if n <= m else (i - s) // m for i in range(n)])
    combos = list(itertools.product(*axes))
    ids = {label: i for i, label in enumerate(dict.fromkeys(combos))}
    return torch.tensor([ids[c] for c in combos])


@functools.cache
def offsets(size):
    """The different offsets between tokens of a map, and which of them each pair of tokens has."""
    places = torch.tensor(list(itertools.product(*(range(n) for n in size))))
    pairs = places[:, None] - places[None]
    return pairs.flatten(0, 1).unique(dim=0, return_inverse=True)


def pair_bias(state, prefix, size, pretrained, dtype):
    """Bias ``(h, T, T)`` of all pairs of tokens of a map; those at one offset have one bias."""
    offset, pairs = offsets(tuple(size))
    offset = offset.to(dtype)
    u = 8 * offset / torch.tensor([max(w - 1, 1) for w in pretrained], dtype=dtype)
    u = torch.sign(u) * torch.log(1 + u.abs()) / math.log(8)
    hidden = F.relu(
        F.linear(u, state[prefix + 'cpb_mlp.0.weight'], state[prefix + 'cpb_mlp.0.bias'])
    )
    bias = F.linear(hidden, state[prefix + 'cpb_mlp.2.weight'])
    return 16 * torch.sigmoid(bias)[pairs].unflatten(0, (math.prod(size), -1)).permute(2, 0, 1)


def attention(state, prefix, x, heads, window, shift, pretrained):
    """``(B, *S, C) -> (B, *S, C)``."""
    b, *size, c = x.shape
    x = x.reshape(b, -1, c)
    q = F.linear(x, state[prefix + 'qkv.weight'][:c], state[prefix + 'q_bias'])
    k = F.linear(x, state[prefix + 'qkv.weight'][c : 2 * c])
    v = F.linear(x, state[prefix + 'qkv.weight'][2 * c :], state[prefix + 'v_bias'])
    q, k, v = (t.reshape(b, -1, heads, c // heads).transpose(1, 2) for t in (q, k, v))
    tau = torch.exp(-state[prefix + 'logit_scale']).clamp(min=0.01)
    cosine = (q @ k.transpose(2, 3)) / (q.norm(dim=3)[..., None] * k.norm(dim=3)[:, :, None])
    scores = cosine / tau + pair_bias(state, prefix, size, pretrained, x.dtype)
    labels = window_labels(size, window, shift)
    scores = scores.masked_fill(labels[:, None] != labels[None], -math.inf)
    out = (scores.softmax(-1) @ v).transpose(1, 2).reshape(b, -1, c)
    out = F.linear(out, state[prefix + 'proj.weight'], state[prefix + 'proj.bias'])
    return out.reshape(b, *size, c)


def layer_norm(state, prefix, x):
    """Layer norm over the last axis."""
    return F.layer_norm(x, x.shape[-1:], state[prefix + 'weight'], state[prefix + 'bias'])


def merge(state, prefix, x, stride):
    """Patch merging, one output token at a time along the offsets."""
    pads = [(-n) % s for n, s in zip(x.shape[1:-1], stride, strict=True)]
    x = F.pad(x, [0, 0] + [p for pad in reversed(pads) for p in (0, pad)])
    axes = list(enumerate(stride, start=1))
    parts = []
    for offset in sorted(itertools.product(*(range(s) for s in stride)), key=lambda o: o[::-1]):
        part = x
        for (axis, s), o in zip(axes, offset, strict=True):
            part = part.index_select(axis, torch.arange(o, x.shape[axis], s))
        parts.append(part)
    reduced = F.linear(torch.cat(parts, -1), state[prefix + 'reduction.weight'])
    return layer_norm(state, prefix + 'norm.', reduced)


def forward(state, x, heads, windows, pretrained, patch=(4, 4), stride=(2, 2)):
    """All outputs of the network whose parameters are `state`, in evaluation mode."""
    ndim = len(patch)
    pads = [(-n) % p for n, p in zip(x.shape[2:], patch, strict=True)]
    x = F.pad(x, [n for pad in reversed(pads) for n in (0, pad)])
    conv = F.conv2d if ndim == 2 else F.conv3d
    x = conv(x, state['patch_embed.proj.weight'], state['patch_embed.proj.bias'], stride=patch)
    x = layer_norm(state, 'patch_embed.norm.', x.permute(0, *range(2, 2 + ndim), 1))
    outs = []
    for i, stage_heads in enumerate(heads):
        j = 0
        while f'layers.{i}.blocks.{j}.norm1.weight' in state:
            block = f'layers.{i}.blocks.{j}.'
            shift = [m // 2 if j % 2 else 0 for m in windows[i]]
            attended = attention(
                state, block + 'attn.', x, stage_heads, windows[i], shift, pretrained[i]
            )
            x = x + layer_norm(state, block + 'norm1.', attended)
            hidden = F.linear(x, state[block + 'mlp.fc1.weight'], state[block + 'mlp.fc1.bias'])
            hidden = F.linear(
                F.gelu(hidden), state[block + 'mlp.fc2.weight'], state[block + 'mlp.fc2.bias']
            )
            x = x + layer_norm(state, block + 'norm2.', hidden)
            if block + 'enorm.weight' in state:
                x = layer_norm(state, block + 'enorm.', x)
            j += 1
        outs.append(layer_norm(state, f'norm{i}.', x).movedim(-1, 1))
        if i < len(heads) - 1:
            x = merge(state, f'layers.{i}.downsample.', x, stride)
    return outs


def textbook_attention(attn, x, window):
    """One unshifted attention layer on ``(B, H, W, C)``, padded with zeros as commonly published.

    `attn` is a module with the parameters of the authors' code. Padded tokens take part, and
    vectors are normalized by dividing by ``max(length, 1e-12)``.
    """
    b, h, w, c = x.shape
    x = F.pad(x, (0, 0, 0, -w % window, 0, -h % window))
    hp, wp = x.shape[1:3]
    x = x.reshape(b, hp // window, window, wp // window, window, c).transpose(2, 3)
    x = x.reshape(-1, window * window, c)
    bias = torch.cat([attn.q_bias, torch.zeros_like(attn.v_bias), attn.v_bias])
    qkv = F.linear(x, attn.qkv.weight, bias)
    qkv = qkv.reshape(*x.shape[:2], 3, attn.num_heads, -1)
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)
    scores = scores * attn.logit_scale.clamp(max=math.log(100)).exp()
    out = (scores.softmax(-1) @ v.to(scores.dtype)).transpose(1, 2).reshape(x.shape)
    out = attn.proj(out).reshape(b, hp // window, wp // window, window, window, c)
    return out.transpose(2, 3).reshape(b, hp, wp, c)[:, :h, :w]
