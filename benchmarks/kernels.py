"""What the Triton kernels need of a card: registers, spills and shared memory; no GPU is needed.

    python -m benchmarks.kernels                   compile all for sm_80 and sm_90
    python -m benchmarks.kernels --targets gfx942  for AMD's MI300 (nobody has run them there)
    python -m benchmarks.kernels --tune            on a GPU: time each choice of blocks, and write
                                                   the fastest to mmswinv2/ops/triton/blocks.json

"spills" are bytes of registers that a thread keeps in memory, which is slow. "loop" is the number
of instructions in the longest loop.
"""

import itertools
import json
import math
import re
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from unittest import mock

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from mmswinv2.ops import WindowGrid
from mmswinv2.ops.triton import attention, attention_kernels, bias_mlp, norm
from mmswinv2.ops.triton import blocks as blocks_of
from mmswinv2.options import ArgumentParser

TARGETS = {
    'sm_80': GPUTarget('cuda', 80, 32),
    'sm_90': GPUTarget('cuda', 90, 32),
    'gfx942': GPUTarget('hip', 'gfx942', 64),
}
CAPABILITY = {'sm_80': 80, 'sm_90': 90, 'gfx942': 80}
ATTENTION = {
    'forward': attention_kernels.attend_forward,
    'backward_q': attention_kernels.attend_backward_q,
    'backward_kv': attention_kernels.attend_backward_kv,
    'backward_table': attention_kernels.attend_backward_pairs,
}
OTHERS = {
    'align_table': attention_kernels.align_table,
    'fold_pairs': attention_kernels.fold_pairs,
    'add_norm_forward': norm.add_norm_forward,
    'add_norm_backward': norm.add_norm_backward,
    'position_bias_forward': bias_mlp.position_bias_forward,
    'position_bias_backward': bias_mlp.position_bias_backward,
}
DTYPES = {'bf16': torch.bfloat16, 'fp16': torch.float16, 'fp32': torch.float32}
# arguments that are float32 whatever the dtype of the activations
WIDE = {
    'table', 'aligned', 'pairs', 'scale', 'lse', 'delta', 'd_scale', 'd_table', 'parts', 'w1', 'b1',
    'w2', 'weight', 'bias', 'x', 'd_x',
}  # fmt: skip
FLOATS = {'dropout', 'eps', 'u0', 'u1', 'u2'}
NUMBERS = {
    *bias_mlp._SIZES, *norm._SIZES, *attention_kernels.SIZES, *attention_kernels.OFFSETS,
    'windows', 'shares', 'first_head', 'numbers',
}  # fmt: skip
WINDOWS = ((8, 8), (16, 16), (24, 24), (32, 32), (8, 7, 7))
_BYTES = 16  # of an instruction


def compile_kernel(kernel, target, dtype, options, warps=4, stages=2):
    """Compile a kernel ahead of time, as it is launched."""
    signature = {}
    constants = dict(options)
    for name in kernel.arg_names:
        if name in options:
            signature[name] = 'constexpr'
        elif name == 'seed' and not options.get('DROP'):
            signature[name], constants[name] = 'constexpr', None
        elif name == 'seed':
            signature[name] = '*i64'
        elif name in FLOATS:
            signature[name] = 'fp32'
        elif name in NUMBERS:
            signature[name] = 'i32'
        else:
            wide = name in WIDE or (kernel in OTHERS.values() and name in ('grad', 'out'))
            signature[name] = '*fp32' if wide else f'*{dtype}'
    # tensors of torch begin at multiples of 16 bytes
    pointers = [i for i, name in enumerate(kernel.arg_names) if signature[name].startswith('*')]
    attrs = {(i,): [['tt.divisibility', 16]] for i in pointers}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attrs)
    launch = dict(num_warps=warps, num_stages=stages)
    return triton.compile(source, target=TARGETS[target], options=launch)


def compile_attention(name, target, window, width=32, dtype='bf16', dropout=False, blocks=None):
    """Compile a kernel of attention, by default with the block sizes of the table."""
    tokens, itemsize = math.prod(window), DTYPES[dtype].itemsize
    blocks = blocks or blocks_of._look_up(name, CAPABILITY[target], tokens, width, itemsize)
    qkv = torch.empty(1, *window, 3 * width, device='meta', dtype=DTYPES[dtype])
    table = torch.empty(1, *(2 * m - 1 for m in window), device='meta')
    call = attention._Call(qkv, table, float(dropout), window, (0,) * len(window))
    options = dict(call.options, BQ=blocks.queries, BK=blocks.keys)
    compiled = compile_kernel(ATTENTION[name], target, dtype, options, blocks.warps, blocks.stages)
    return compiled, blocks


def compile_other(name, target, channels=96, heads=3, dtype='bf16'):
    """Compile one of the other kernels."""
    if name.startswith('add_norm'):
        y = torch.empty(1, channels, device='meta', dtype=DTYPES[dtype])
        scale = torch.empty(1, device='meta')
        options = norm._options(y, scale, casts=True, backward=name.endswith('backward'))
    elif name == 'align_table':
        options = dict(M0=1, M1=16, M2=16, RUN=4, BLOCK=attention._ALIGNED)
    elif name == 'fold_pairs':
        options = dict(M1=16, M2=16, ROWS=attention._FOLDED // 32, BLOCK=32)
    else:
        cut = bias_mlp._BACKWARD if name.endswith('backward') else bias_mlp._FORWARD
        w2 = torch.empty(heads, 512, device='meta')
        options = bias_mlp._numbers((31, 31), (16, 16), w2, cut)[1]
        if target.startswith('gfx'):
            options['PRECISION'] = 'ieee'  # AMD's matrix units have no TF32 in three parts
    warps = options.pop('num_warps', 4)
    return compile_kernel(OTHERS[name], target, dtype, options, warps)


def resources(compiled):
    """``(registers, bytes spilled, bytes of shared memory, instructions of the longest loop)``.

    For AMD, only shared memory.
    """
    if 'cubin' not in compiled.asm:
        return None, None, compiled.metadata.shared, None
    tool = Path(triton.__file__).parent / 'backends/nvidia/bin/cuobjdump'
    with tempfile.NamedTemporaryFile(suffix='.cubin') as file:
        file.write(compiled.asm['cubin'])
        file.flush()
        usage, code = (
            subprocess.run([tool, option, file.name], capture_output=True, text=True).stdout
            for option in ('-res-usage', '-sass')
        )
    registers, stack = (int(re.search(rf'{word}:(\d+)', usage)[1]) for word in ('REG', 'STACK'))
    # a branch back to the start of its loop, such as "/*33d0*/ @!P0 BRA 0x1980 ;"
    branches = re.findall(r'/\*([0-9a-f]+)\*/ +(?:@\S+ +)?BRA 0x([0-9a-f]+)', code)
    jumps = [(int(end, 16) - int(start, 16)) // _BYTES for end, start in branches]
    longest = max((jump + 1 for jump in jumps if jump > 0), default=None)
    return registers, stack, compiled.metadata.shared, longest


def table(targets, dtypes):
    """Compile everything; yield a row for each kernel."""
    yield (
        'target', 'kernel', 'dtype', 'for', 'blocks', 'registers', 'spills', 'shared memory', 'loop'
    )  # fmt: skip
    for target, dtype in itertools.product(targets, dtypes):
        for name, window in itertools.product(ATTENTION, WINDOWS):
            compiled, blocks = compile_attention(name, target, window, dtype=dtype)
            cut = f'{blocks.queries}x{blocks.keys}, {blocks.warps} warps'
            text = 'window ' + 'x'.join(map(str, window))
            yield target, f'attend_{name}', dtype, text, cut, *resources(compiled)
        for name in ATTENTION:
            compiled, blocks = compile_attention(name, target, (16, 16), dtype=dtype, dropout=True)
            cut = f'{blocks.queries}x{blocks.keys}, {blocks.warps} warps'
            yield target, f'attend_{name}', dtype, 'dropout', cut, *resources(compiled)
        for name, channels in itertools.product(OTHERS, (96, 768)):
            if name.startswith(('add_norm', 'position_bias')):
                compiled = compile_other(name, target, channels, channels // 32, dtype)
                yield target, name, dtype, f'{channels} channels', '', *resources(compiled)
            elif channels == 96:
                compiled = compile_other(name, target)
                yield target, name, dtype, 'window 16', '', *resources(compiled)


def tune(dtypes, widths, windows):
    """Time choices of blocks on the local GPU, and write the fastest for each kernel when found."""
    from triton.testing import do_bench

    capability = blocks_of._capability(torch.device('cuda'))
    rows = blocks_of.table()
    sizes = [pair for pair in itertools.product((32, 64, 128), repeat=2) if sum(pair) < 256]
    choices = [
        blocks_of.Blocks(*c, warps, stages)
        for c, warps, stages in itertools.product(sizes, (4, 8), (1, 2, 3))
    ]
    for dtype, width, window in itertools.product(dtypes, widths, windows):
        heads, size = 96 // width or 1, (192, 320)
        kind = DTYPES[dtype]
        qkv = torch.randn(1, *size, 3 * heads * width, device='cuda', dtype=kind)
        grid = WindowGrid(size, (window,) * 2, (window // 2,) * 2)
        bias = torch.randn(heads, 2 * window - 1, 2 * window - 1, device='cuda')
        scale = torch.full((heads,), 10.0, device='cuda')
        numbers = (0.0, grid.window, grid.shift)
        out, lse, aligned = torch.ops.mmswinv2.attend(qkv, bias, scale, None, *numbers)
        forward = partial(torch.ops.mmswinv2.attend, qkv, bias, scale, None, *numbers)
        backward = partial(
            torch.ops.mmswinv2.attend_backward,
            out,
            qkv,
            bias,
            scale,
            None,
            out,
            lse,
            aligned,
            *numbers,
            True,
        )
        for name in ATTENTION:
            best = None
            for blocks in choices:

                def choose(kernel, *where, name=name, blocks=blocks):
                    return blocks if kernel == name else blocks_of.choose_blocks(kernel, *where)

                try:
                    with mock.patch.object(attention, 'choose_blocks', choose):
                        time = do_bench(forward if name == 'forward' else backward, 5, 30)
                except (triton.runtime.errors.TritonError, RuntimeError) as error:
                    print(name, dtype, width, window, blocks, type(error).__name__, file=sys.stderr)
                    continue
                if best is None or time < best[0]:
                    best = time, blocks
            time, blocks = best
            print(
                f'{name} {dtype} head {width} window {window}: {time:.3f} ms {blocks}', flush=True
            )
            found = dict(
                capability=capability, kernel=name, itemsize=kind.itemsize, width=width,
                tokens=window**2,
            )  # fmt: skip
            rows = [row for row in rows if not found.items() <= row.items()]
            rows.append({**found, 'blocks': list(blocks)})
            text = '[\n' + ',\n'.join(json.dumps(row) for row in rows) + '\n]\n'
            blocks_of.FILE.write_text(text)


def main():
    """Print the table, or tune."""
    parser = ArgumentParser(description=__doc__, as_written=True)
    parser.add_argument('--targets', nargs='+', choices=TARGETS, default=['sm_80', 'sm_90'])
    parser.add_argument('--dtypes', nargs='+', choices=DTYPES, default=['bf16', 'fp16', 'fp32'])
    parser.add_argument(
        '--tune', action='store_true', help='time on the GPU at hand, write the table'
    )
    parser.add_argument('--widths', nargs='+', type=int, default=[32], help='of heads, to tune')
    parser.add_argument('--windows', nargs='+', type=int, default=[8, 16, 32], help='to tune')
    args = parser.parse_args()
    if args.tune and not torch.cuda.is_available():
        parser.error('--tune times kernels: there is no GPU that torch can use')
    if args.tune:
        tune(args.dtypes, args.widths, args.windows)
        return
    for row in table(args.targets, args.dtypes):
        print(
            '|', *(' | '.join('' if cell is None else str(cell) for cell in row),), '|', flush=True
        )


if __name__ == '__main__':
    main()
