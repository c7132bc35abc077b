"""What a config costs, found out before anything is trained; what a training has given."""

from ..hosts import input_size
from .memory import STRATEGIES, Estimate, TrainingStep, follow_step
from .model import count_flops, count_parameters

__all__ = [
    'STRATEGIES',
    'Estimate',
    'TrainingStep',
    'count_flops',
    'count_parameters',
    'follow_step',
    'input_size',
]
