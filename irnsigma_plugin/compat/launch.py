"""Several processes, without GPUs, too."""

from __future__ import annotations

import atexit
import gc
import os
import sys
from subprocess import DEVNULL, CalledProcessError, check_output

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
            gpu = torch.device('cuda', int(os.environ['RANK']) % torch.cuda.device_count())  # as BasicSR; NCCL guesses
            pytorch(backend, **({'device_id': gpu} if backend == 'nccl' else {}), **kwargs)
        else:
            torch.distributed.init_process_group(backend='gloo', **kwargs)
        atexit.register(_leave_group)

    def _init_dist_slurm(backend, port=None):
        _require_launcher('slurm', 'SLURM_PROCID', 'srun --ntasks=N python')
        if torch.cuda.is_available():
            slurm(backend, port)
        else:
            _describe_slurm_to_torch(port)
            torch.distributed.init_process_group(backend='gloo')
        atexit.register(_leave_group)

    dist_util._init_dist_pytorch, dist_util._init_dist_slurm = _init_dist_pytorch, _init_dist_slurm


def _leave_group() -> None:
    """Leave the other processes, as torch asks for; BasicSR never does.

    Threads of a gloo group that outlives the interpreter can abort a finished process, and the launcher then sees a
    failure. NCCL may wait for the others: where an error ends this process alone, that is left to the launcher.
    """
    gc.collect()  # of models, which hold on to the group
    failed = hasattr(sys, 'last_type')
    if torch.distributed.is_initialized() and not (failed and torch.distributed.get_backend() == 'nccl'):
        torch.distributed.destroy_process_group()


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
