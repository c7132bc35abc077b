"""What a config costs, found out before anything is trained; what weights and trainings hold."""

from ..hosts import input_size
from .memory import STRATEGIES, Estimate, TrainingStep, follow_step
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
