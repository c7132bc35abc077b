"""What a config costs, found out before anything is trained."""

from .flops import count_flops
from .memory import STRATEGIES, Estimate, estimate_memory
from .model import count_parameters, input_size

__all__ = [
    'STRATEGIES',
    'Estimate',
    'count_flops',
    'count_parameters',
    'estimate_memory',
    'input_size',
]
