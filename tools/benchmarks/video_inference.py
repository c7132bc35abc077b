"""Time and memory of Video-SwinV2-T against mmaction2's SwinTransformer3D-T, in one run.

Inference on 16 frames of 224x224, window 8x7x7, batch 1, random weights, float32. Each network runs
in a process of its own for its peak memory, and the runs of both take turns, so that whatever else
the machine does falls on both. Prints medians and ratios.
"""

import argparse
import multiprocessing
import resource
import statistics
import time

import torch

NETWORKS = {
    'mmaction2 SwinTransformer3D-T': dict(type='SwinTransformer3D', arch='tiny'),
    'mmswinv2 Video-SwinV2-T': dict(type='mmswinv2.VideoSwinTransformerV2', arch='tiny'),
}


def serve(pipe, config, shape, threads):
    """Build a network; for each message run it once and send seconds and peak memory in MiB."""
    torch.set_num_threads(threads)
    from mmswinv2 import compat

    compat.apply()
    import mmaction.models  # noqa: F401
    from mmaction.registry import MODELS

    if config['type'] == 'SwinTransformer3D':
        config = dict(config, pretrained=None)
    net = MODELS.build(dict(config, window_size=(8, 7, 7), patch_size=(2, 4, 4)))
    net.eval()  # mmaction2's returns None
    clip = torch.randn(shape)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    pipe.send('ready')
    while pipe.recv():
        start = time.perf_counter()
        with torch.no_grad():
            net(clip)
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        pipe.send((seconds, (peak - before) / 1024))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--runs', type=int, default=10, help='timed runs of each (10)')
    parser.add_argument('--frames', type=int, default=16)
    parser.add_argument('--size', type=int, default=224)
    parser.add_argument('--threads', type=int, default=2)
    args = parser.parse_args()
    shape = (1, 3, args.frames, args.size, args.size)
    context = multiprocessing.get_context('spawn')
    pipes = {}
    for name, config in NETWORKS.items():
        pipes[name], other = context.Pipe()
        arguments = other, config, shape, args.threads
        context.Process(target=serve, args=arguments, daemon=True).start()
        other.close()  # so that the end of the process is the end of the pipe
        try:
            pipes[name].recv()
        except EOFError:
            raise SystemExit(f'error: {name} cannot be built; its traceback stands above') from None
    seconds = {name: [] for name in NETWORKS}
    memory = {}
    for run in range(args.runs + 2):
        for name, pipe in pipes.items():
            pipe.send(True)
            took, memory[name] = pipe.recv()
            if run >= 2:  # the first ones warm up
                seconds[name].append(took)
    for pipe in pipes.values():
        pipe.send(False)
    print(f'{args.frames}x{args.size}x{args.size}, window 8x7x7, {args.threads} threads, '
          f'torch {torch.__version__}')  # fmt: skip
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    for name in NETWORKS:
        print(f'{name:32} {medians[name]:.3f} s  {memory[name]:.0f} MiB above the idle process')
    peer, ours = NETWORKS
    print(f'ratio  {medians[peer] / medians[ours]:.2f} times as fast, '
          f'{memory[ours] / memory[peer]:.2f} of the memory')  # fmt: skip


if __name__ == '__main__':
    main()
