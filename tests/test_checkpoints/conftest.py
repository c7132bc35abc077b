import pytest
import torch

from mmswinv2.core import SwinV2
from mmswinv2.core.attention import log_coordinates


@pytest.fixture
def save(tmp_path):
    """A function that writes an object with `torch.save` and returns the path."""

    def save(obj, name='swin.pth'):
        torch.save(obj, tmp_path / name)
        return tmp_path / name

    return save


def weights(window=8, tables=None, **kwargs):
    """State dict of a nano network, in the format of the authors' files."""
    torch.manual_seed(0)
    net = SwinV2('nano', window_size=window, out_indices=(3,), **kwargs)
    for p in net.parameters():
        torch.nn.init.normal_(p)
    state = {k.replace('norm3.', 'norm.'): v for k, v in net.state_dict().items()}
    state['head.weight'], state['head.bias'] = torch.zeros(10, 256), torch.zeros(10)
    for stage, (m, w) in enumerate(tables or []):
        attn = f'layers.{stage}.blocks.0.attn.'
        state[attn + 'relative_coords_table'] = log_coordinates((m, m), (w, w))[None]
        state[attn + 'relative_position_index'] = torch.zeros(m * m, m * m, dtype=torch.long)
        state[f'layers.{stage}.blocks.1.attn_mask'] = torch.zeros(4, m * m, m * m)
    return state


class Evil:
    """Pickled as a call of a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


PRINTS = Evil(print, 'this must not be printed')
