"""Several processes, without GPUs, too."""

from __future__ import annotations

import atexit
import os
from subprocess import DEVNULL, CalledProcessError, check_output
from typing import Any

import torch

from irnsigma_plugin.checks import one_line


def launch_without_gpu() -> None:
    """Let both launchers work without a GPU, over gloo: BasicSR divides by the number of GPUs and asks for NCCL."""
    from basicsr.utils import dist_util

    pytorch, slurm = dist_util._init_dist_pytorch, dist_util._init_dist_slurm
    if pytorch.__module__ == __name__:
        return

    def _init_dist_pytorch(backend, **kwargs):
        _require_launcher('pytorch', 'RANK', 'torchrun --nproc_per_node=N')
        if torch.cuda.is_available():
            pytorch(backend, **kwargs)
        else:
            _join_by_gloo(**kwargs)

    def _init_dist_slurm(backend, port=None):
        _require_launcher('slurm', 'SLURM_PROCID', 'srun --ntasks=N python')
        if torch.cuda.is_available():
            slurm(backend, port)
        else:
            _describe_slurm_to_torch(port)
            _join_by_gloo()

    dist_util._init_dist_pytorch, dist_util._init_dist_slurm = _init_dist_pytorch, _init_dist_slurm


def _join_by_gloo(**kwargs: Any) -> None:
    """Join the other processes, and leave them at exit, as torch asks for; BasicSR never does.

    Threads of a group that outlives the interpreter can abort a finished process, and the launcher then sees a failure.
    """

    def leave() -> None:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()

    torch.distributed.init_process_group(backend='gloo', **kwargs)
    atexit.register(leave)


def _require_launcher(launcher: str, variable: str, command: str) -> None:
    if variable not in os.environ:
        raise RuntimeError(
            f'--launcher {launcher} needs the processes of a launcher, but {variable} is not set. Start with `{command}'
            f' -m basicsr.train -opt ... --launcher {launcher}`, or leave out --launcher for a single process.'
        )


def _describe_slurm_to_torch(port: int | str | None) -> None:
    """Set the environment variables of torch's rendezvous from Slurm's; the first node leads."""
    nodes = os.environ['SLURM_NODELIST']
    try:
        names = check_output(['scontrol', 'show', 'hostname', nodes], text=True, stdin=DEVNULL, stderr=DEVNULL)
        address = names.split()[0]
    except (OSError, CalledProcessError, IndexError) as error:
        raise RuntimeError(
            f'--launcher slurm cannot learn the first of the nodes {nodes}: `scontrol show hostname` failed '
            f'({one_line(error)}). Put scontrol on PATH, or use --launcher pytorch with torchrun.'
        ) from error
    os.environ.update(MASTER_ADDR=address, WORLD_SIZE=os.environ['SLURM_NTASKS'], RANK=os.environ['SLURM_PROCID'])
    os.environ['MASTER_PORT'] = str(port or os.environ.get('MASTER_PORT', 29500))  # the default of BasicSR and torch
