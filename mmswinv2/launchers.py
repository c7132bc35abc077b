"""Launchers of distributed runs, and what each sets in the environment of every process."""

import os

RANKS = {  # launcher: variables of the rank and of the number of ranks
    'pytorch': ('RANK', 'WORLD_SIZE'),
    'slurm': ('SLURM_PROCID', 'SLURM_NTASKS'),
    'mpi': ('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_SIZE'),
}


def is_alone() -> bool:
    """Whether this process belongs to no run of several processes."""
    started = [size for rank, size in RANKS.values() if rank in os.environ]
    return all(os.environ.get(size, '1') == '1' for size in started)


def is_first_process(launcher: str) -> bool:
    """Whether this is rank 0 by the launcher's variables, before a process group exists.

    A job of Slurm has its variables also in processes that mpirun starts.
    """
    return launcher == 'none' or os.environ.get(RANKS[launcher][0], '0') == '0'
