import os
from ctypes.util import find_library

if not find_library('cuda'):  # no driver: kernels run in the interpreter, on tensors of the CPU
    os.environ.setdefault('TRITON_INTERPRET', '1')  # read when Triton is imported
