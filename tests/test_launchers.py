from mmswinv2.launchers import RANKS, is_first_process


def test_the_rank_is_that_of_the_launcher(monkeypatch):
    """In a job of Slurm, all processes that mpirun starts have the same SLURM_PROCID."""
    for variable, rank in (('SLURM_PROCID', '0'), ('OMPI_COMM_WORLD_RANK', '1'), ('RANK', '1')):
        monkeypatch.setenv(variable, rank)
    first = {kind: is_first_process(kind) for kind in ('none', *RANKS)}
    assert first == dict(none=True, pytorch=False, slurm=True, mpi=False)
