"""Memory and FLOPs of a config before it is trained; the position bias in weights."""

from ..hosts import input_size
from ..options import STRATEGIES
from .memory import Estimate, TrainingStep, follow_step
from .model import count_flops, count_parameters
from .position_bias import bias_maps, draw_bias, find_biases, load_bias

__all__ = [
    'STRATEGIES',
    'Estimate',
    'TrainingStep',
    'bias_maps',
    'count_flops',
    'count_parameters',
    'draw_bias',
    'find_biases',
    'follow_step',
    'input_size',
    'load_bias',
]
