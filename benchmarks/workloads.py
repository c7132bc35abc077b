"""What is measured: a network, an input and a mode."""

from dataclasses import asdict, dataclass, replace

IMAGE_PEERS = ('timm', 'transformers', 'torchvision', 'mmpretrain')
VIDEO_PEERS = ('mmaction2',)


@dataclass(frozen=True)
class Workload:
    """One row of the tables.

    Attributes:
        name: its name in `--workloads`.
        arch: size of the network.
        size: ``(H, W)`` or ``(T, H, W)`` pixels.
        window: window M, or one per axis.
        batch: images or clips.
        training: a step of training (forward and backward pass) or inference.
        dtype: float32, or the type of autocast.
        compiled: under `torch.compile`.
    """

    name: str
    arch: str
    size: tuple[int, ...]
    window: int | tuple[int, ...]
    batch: int = 1
    training: bool = False
    dtype: str = 'float32'
    compiled: bool = False

    @property
    def peers(self) -> tuple[str, ...]:
        """The implementations to compare with."""
        return IMAGE_PEERS if len(self.size) == 2 else VIDEO_PEERS

    def __str__(self) -> str:
        size = 'x'.join(map(str, self.size))
        window = self.window if isinstance(self.window, int) else 'x'.join(map(str, self.window))
        kind = 'training step' if self.training else 'inference'
        extras = [] if self.dtype == 'float32' else [self.dtype]
        extras += ['compiled'] * self.compiled
        network = f'SwinV2-{self.arch[0].upper()}'
        network = network if len(self.size) == 2 else f'Video-{network}'
        return ', '.join([network, size, f'window {window}', f'batch {self.batch}', kind, *extras])

    def as_dict(self) -> dict:
        """For JSON."""
        return asdict(self)


def _both(workload: Workload) -> list[Workload]:
    name = workload.name
    return [workload, replace(workload, name=f'{name}-train', training=True)]


MAIN = [
    *_both(Workload('800-t', 'tiny', (800, 1344), 16)),
    *_both(Workload('800-b', 'base', (800, 1344), 16)),
    *_both(Workload('512-t', 'tiny', (512, 512), 16)),
    *_both(Workload('256-t', 'tiny', (256, 256), 8, batch=8)),
    *_both(Workload('1536-t', 'tiny', (1536, 1536), 32)),
    *_both(Workload('1536-l', 'large', (1536, 1536), 32)),
    *_both(Workload('video-t', 'tiny', (16, 224, 224), (8, 7, 7))),
]
# how cost grows; the plot's points
BY_SIZE = [Workload(f'size-{n}', 'tiny', (n, n), 16) for n in (256, 512, 768, 1024)]
BY_WINDOW = [Workload(f'window-{m}', 'tiny', (512, 512), m) for m in (8, 16, 32)]
SWEEPS = [w for workload in (*BY_SIZE, *BY_WINDOW) for w in _both(workload)]
ALL = {w.name: w for w in (*MAIN, *SWEEPS)}
