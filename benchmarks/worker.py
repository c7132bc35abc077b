"""One implementation in a process of its own: ``python -m benchmarks.worker SPEC``.

Says ``{"ready": ...}`` when it is built, then answers each line of its standard input with the
seconds that one run took and the peak of memory in bytes, both as lines of JSON, to the file
descriptor ``answers``.
"""

import contextlib
import gc
import json
import os
import re
import resource
import sys
import time
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from mmswinv2.analysis.measured_memory import idle_memory, peak_memory
from mmswinv2.ops.onednn import linear
from mmswinv2.paths import PATHS

from . import peers
from .report import OUT_OF_MEMORY


def build_image(name: str, spec: dict[str, Any]) -> Any:
    windows = (spec['window'],) * 4
    if name == 'mmswinv2':
        net = peers.ours(spec['arch'], spec['size'], spec['window'], block=PATHS['auto'])
        return peers.randomise(net), net
    net, _, _, run = getattr(peers, name)(spec['arch'], tuple(spec['size']), windows, (0,) * 4)
    return net, run


def build_video(name: str, spec: dict[str, Any]) -> Any:
    from mmswinv2 import hosts

    hosts.apply()
    import mmaction.models  # noqa: F401
    from mmaction.registry import MODELS

    types = {'mmaction2': 'SwinTransformer3D', 'mmswinv2': 'mmswinv2.VideoSwinTransformerV2'}
    cfg = dict(
        type=types[name], arch=spec['arch'], window_size=tuple(spec['window']),
        patch_size=(2, 4, 4), drop_path_rate=0.0,
    )  # fmt: skip
    net = MODELS.build(dict(cfg, pretrained=None) if name == 'mmaction2' else cfg)
    peers.randomise(net)
    return net, net


def build(name: str, spec: dict[str, Any]) -> Any:
    """The network and a function that runs it on a batch."""
    return (build_image if len(spec['size']) == 2 else build_video)(name, spec)


def load_libraries(name: str, spec: dict[str, Any]) -> None:
    """Import what an implementation needs, by building a small one."""
    if not name.startswith('product'):
        small = ([256, 256], 8) if len(spec['size']) == 2 else (spec['size'], [8, 7, 7])
        build(name, dict(arch='tiny', size=small[0], window=small[1]))


def runner(name: str, spec: dict[str, Any]) -> Any:
    """A function that runs the measured step once."""
    device = torch.device(spec['device'])
    dtype = getattr(torch, spec['dtype'])
    if name.startswith('product'):
        a, b = (torch.randn(4096, 4096, device=device, dtype=dtype) for _ in range(2))
        product = linear if name.endswith('oneDNN') else torch.matmul
        return torch.no_grad()(lambda: product(a, b))
    net, run = build(name, spec)
    net.to(device)
    net.train(spec['training'])
    if spec['compiled']:
        run = torch.compile(run)
    x = torch.randn(spec['batch'], 3, *spec['size'], device=device)
    half = torch.autocast(device.type, dtype, dtype != torch.float32)

    def infer() -> None:
        with torch.no_grad(), half:
            run(x)

    def train() -> None:
        net.zero_grad()
        with half:
            outs = run(x)
        sum(out.float().square().mean() for out in tree_leaves(outs)).backward()

    return train if spec['training'] else infer


def main() -> None:
    spec = json.loads(sys.argv[1])
    answers = os.fdopen(spec['answers'], 'w')
    if spec['device'] == 'cpu':
        resource.setrlimit(resource.RLIMIT_DATA, (spec['memory_limit'],) * 2)
    torch.set_num_threads(spec['threads'])
    torch.manual_seed(0)

    def say(**what: Any) -> None:
        print(json.dumps(what), file=answers, flush=True)

    try:
        load_libraries(spec['implementation'], spec)
        gc.collect()
        idle = idle_memory(spec['device'])
        step = runner(spec['implementation'], spec)
        say(ready=True)
        for _ in sys.stdin:
            start = time.perf_counter()
            step()
            if spec['device'] != 'cpu':
                torch.cuda.synchronize()
            seconds = time.perf_counter() - start
            say(seconds=seconds, peak=peak_memory(spec['device']) - idle)
    except (RuntimeError, MemoryError) as error:
        words = "out of memory|can't allocate memory|bad_alloc"
        if not isinstance(error, MemoryError) and not re.search(words, str(error), re.IGNORECASE):
            raise
        say(error=OUT_OF_MEMORY)
    with contextlib.suppress(BrokenPipeError):
        answers.close()


if __name__ == '__main__':
    main()
