"""Several processes, without GPUs, too."""

from __future__ import annotations

import atexit
import os
import subprocess
from typing import Any

from irnsigma_plugin.checks import one_line

_DEFAULT_PORT = 29500  # of torch.distributed, and of BasicSR's Slurm launcher


def launch_without_gpu() -> None:
    """Let both launchers work without a GPU, over gloo: BasicSR divides by the number of GPUs and asks for NCCL."""
    from basicsr.utils import dist_util

    with_gpu = {launcher: getattr(dist_util, f'_init_dist_{launcher}') for launcher in ('pytorch', 'slurm')}
    if with_gpu['pytorch'].__module__ == __name__:
        return

    def _init_dist_pytorch(backend, **kwargs):
        _require_launcher('pytorch', 'RANK', 'torchrun --nproc_per_node=N')
        if has_cuda():
            with_gpu['pytorch'](backend, **kwargs)
        else:
            _init_gloo(**kwargs)

    def _init_dist_slurm(backend, port=None):
        _require_launcher('slurm', 'SLURM_PROCID', 'srun --ntasks=N python')
        if has_cuda():
            with_gpu['slurm'](backend, port)
        else:
            _describe_slurm_to_torch(port)
            _init_gloo()

    dist_util._init_dist_pytorch = _init_dist_pytorch
    dist_util._init_dist_slurm = _init_dist_slurm


def _init_gloo(**kwargs: Any) -> None:
    """Join the other processes, and leave them at exit, as torch asks for; BasicSR never does.

    Threads of a process group that outlives the interpreter can abort the process when all is done ("terminate called
    without an active exception"), and the launcher then counts the training as failed.
    """
    import torch

    def leave() -> None:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()

    torch.distributed.init_process_group(backend='gloo', **kwargs)
    atexit.register(leave)


def _require_launcher(launcher: str, variable: str, command: str) -> None:
    if variable not in os.environ:
        raise RuntimeError(
            f'--launcher {launcher} needs the processes of a launcher, but {variable} is not set. Start '
            f'with `{command} -m basicsr.train -opt ... --launcher {launcher}`, or leave out --launcher '
            'for a single process.'
        )


def _describe_slurm_to_torch(port: int | str | None) -> None:
    """Set the environment variables of torch's rendezvous from Slurm's; the first node leads."""
    nodes = os.environ['SLURM_NODELIST']
    try:
        hosts = subprocess.run(
            ['scontrol', 'show', 'hostname', nodes],
            check=True,
            text=True,
            capture_output=True,
            stdin=subprocess.DEVNULL,
        ).stdout.split()
        address = hosts[0]
    except (OSError, subprocess.CalledProcessError, IndexError) as error:
        raise RuntimeError(
            f'--launcher slurm cannot learn the first of the nodes {nodes}: `scontrol show hostname` '
            f'failed ({one_line(error)}). Put scontrol on PATH, or use --launcher pytorch with '
            'torchrun.'
        ) from error
    os.environ.update(MASTER_ADDR=address, WORLD_SIZE=os.environ['SLURM_NTASKS'], RANK=os.environ['SLURM_PROCID'])
    os.environ['MASTER_PORT'] = str(port or os.environ.get('MASTER_PORT', _DEFAULT_PORT))


def has_cuda() -> bool:
    """Whether there is a GPU that torch can use."""
    import torch

    return torch.cuda.is_available()
