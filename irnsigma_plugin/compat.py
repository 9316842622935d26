"""What keeps BasicSR from running today, and the remedies.

Each remedy is one function that says why it exists. It acts only where the fault is present, and option
files that use nothing of this plugin keep BasicSR's own behaviour. BasicSR 1.4.2 and its later git master are
served.
"""

from __future__ import annotations

import argparse
import atexit
import difflib
import importlib.util
import inspect
import os
import os.path as osp
import re
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Iterator
from types import ModuleType
from typing import Any

_PACKAGE = __name__.partition('.')[0]
_DEFAULT_PORT = 29500  # of torch.distributed, and of BasicSR's Slurm launcher


def apply_before_import() -> None:
    """Apply what BasicSR needs in order to be imported."""
    alias_functional_tensor()
    alias_distutils_version()


def apply_after_import() -> None:
    """Apply what changes BasicSR's behaviour, once `basicsr` is imported. Harmless when repeated."""
    keep_outputs_in_current_directory()
    launch_without_gpu()


def alias_functional_tensor() -> None:
    """Provide `torchvision.transforms.functional_tensor`, which torchvision dropped in 0.17.

    `basicsr.data.degradations` takes `rgb_to_grayscale` from it; the function lives on under another path.
    """
    name = 'torchvision.transforms.functional_tensor'
    try:
        present = name in sys.modules or importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return  # no torchvision at all: BasicSR's own import error says so best
    if not present:
        from torchvision.transforms.functional import rgb_to_grayscale

        alias = ModuleType(name, f'Stand-in of {_PACKAGE} for a module that torchvision dropped in 0.17.')
        alias.rgb_to_grayscale = rgb_to_grayscale
        sys.modules[name] = alias


def alias_distutils_version() -> None:
    """Provide `distutils.version`, which Python dropped in 3.12, where setuptools does not stand in for it.

    `basicsr.archs.arch_util` compares versions of torchvision by its `LooseVersion`.
    """
    name = 'distutils.version'
    if name not in sys.modules and importlib.util.find_spec('distutils') is None:
        from packaging.version import Version

        alias = ModuleType(name, f'Stand-in of {_PACKAGE} for a module that Python dropped in 3.12.')
        alias.LooseVersion = Version
        sys.modules[name] = alias


def keep_outputs_in_current_directory() -> None:
    """Let option files of this plugin write below the current directory, and resume from there.

    Under `python -m basicsr.train` BasicSR takes the parent of its own package, which is site-packages, for
    the project: experiments, results and logs land there, while `--auto_resume` looks in ./experiments.

    The copy of `basicsr.train` that runs as `__main__` is executed after this and imports the replaced
    `parse_options`; its own `load_resume_state` can only be reached once it calls us.
    """
    from basicsr.utils import options

    original = options.parse_options
    if original.__module__ == __name__:
        return
    site_root = osp.dirname(osp.dirname(osp.abspath(sys.modules['basicsr'].__file__)))

    def parse_options(root_path, is_train=True):
        _accept_dashed_local_rank()
        try:
            opt, args = original(root_path, is_train=is_train)
        except (AttributeError, KeyError, TypeError, ValueError):
            _explain(is_train)
            raise
        plugin_opt = uses_plugin(opt)
        if plugin_opt and not opt['dist']:
            _refuse_processes_unaware_of_each_other()
        if plugin_opt and osp.realpath(root_path) == osp.realpath(site_root):
            opt = _rerooted(opt, root_path, os.getcwd())
        if plugin_opt:
            _check(opt, is_train, args.opt)
        if plugin_opt or not _has_cuda():
            _replace_load_resume_state(sys._getframe(1).f_globals)
        _replace_builders(sys._getframe(1).f_globals, opt)
        return opt, args

    for name in ('basicsr.utils.options', 'basicsr.train', 'basicsr.test', '__main__'):
        module = sys.modules.get(name)
        if getattr(module, 'parse_options', None) is original:
            module.parse_options = parse_options


def _accept_dashed_local_rank() -> None:
    """`python -m torch.distributed.launch` passes `--local-rank` since torch 2.0; BasicSR knows `--local_rank`."""
    sys.argv[1:] = [re.sub('^--local-rank(?==|$)', '--local_rank', argument) for argument in sys.argv[1:]]


def _refuse_processes_unaware_of_each_other() -> None:
    count = os.environ.get('WORLD_SIZE', '1')
    if count != '1' and 'TORCHELASTIC_RUN_ID' in os.environ:  # set by torchrun
        raise RuntimeError(f'torchrun started {count} processes, but each would do the whole work and write the same '
                           'files: add --launcher pytorch after -opt.')


def uses_plugin(opt: dict[str, Any]) -> bool:
    """Whether an option file belongs to this plugin.

    It does when any `type` or `model_type` in it names something registered by this plugin, or a class of
    another package that is derived from a class of this plugin.
    """
    from basicsr.utils import registry

    registries = (registry.ARCH_REGISTRY, registry.DATASET_REGISTRY, registry.LOSS_REGISTRY,
                  registry.METRIC_REGISTRY, registry.MODEL_REGISTRY)
    for name in _type_names(opt):
        for known in registries:
            if name in known and _is_of_plugin(known.get(name)):
                return True
    return False


def _type_names(opt: Any) -> Iterator[str]:
    if isinstance(opt, dict):
        for key, value in opt.items():
            if key in ('type', 'model_type') and isinstance(value, str):
                yield value
            yield from _type_names(value)
    elif isinstance(opt, list):
        for value in opt:
            yield from _type_names(value)


def _is_of_plugin(obj: type | Any) -> bool:
    return any(base.__module__.partition('.')[0] == _PACKAGE for base in getattr(obj, '__mro__', (obj,)))


def _check(opt: dict[str, Any], is_train: bool, option_file: str) -> None:
    """Refuse an option file with faults before anything is built or written."""
    from irnsigma_plugin.options.check import option_faults, outside_faults
    from irnsigma_plugin.options.train_val import refuse

    states = opt['path'].get('training_states', '')
    resumes = opt['auto_resume'] and osp.isdir(states) and any(name.endswith('.state') for name in os.listdir(states))
    refuse([*option_faults(opt, is_train), *_unknown_types(opt), *outside_faults(opt, resumes)], option_file)


def _unknown_types(opt: dict[str, Any]) -> Iterator[str]:
    """Types that neither BasicSR nor this plugin nor an extension has registered."""
    from basicsr.utils import registry

    from irnsigma_plugin.options.check import MODEL, block_types

    registries = {'model_type': registry.MODEL_REGISTRY, 'network_g': registry.ARCH_REGISTRY,
                  'network_d': registry.ARCH_REGISTRY, 'datasets': registry.DATASET_REGISTRY,
                  'train': registry.LOSS_REGISTRY, 'val': registry.METRIC_REGISTRY}
    blocks = block_types(opt) if opt.get('model_type') == MODEL else {}  # other models may read theirs in other ways
    for name, kind in {'model_type': opt.get('model_type'), **blocks}.items():
        known = registries[name.partition('.')[0]]
        if isinstance(kind, str) and kind not in known and f'{kind}_basicsr' not in known:
            nearest = difflib.get_close_matches(kind, known.keys(), n=1)
            yield (f'{name}: there is no {kind}. '
                   + (f'Did you mean {nearest[0]}?' if nearest else 'An extension has to be imported first.'))


def _explain(is_train: bool) -> None:
    """List the faults of an option file that BasicSR could not even read to the end."""
    from irnsigma_plugin.options.check import option_faults
    from irnsigma_plugin.options.file import read_option_file
    from irnsigma_plugin.options.train_val import OptionError, refuse

    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument('-opt')
    option_file = parser.parse_known_args()[0].opt
    try:
        opt = read_option_file(option_file)
    except OptionError:  # then BasicSR's own error says more
        return
    if uses_plugin(opt):
        refuse(option_faults(opt, is_train), option_file)


class _RootedOptions(OrderedDict):
    """Options whose `root_path`, once set, stays: `train_pipeline` overwrites it right after parsing."""

    def __setitem__(self, key: str, value: Any) -> None:
        if key != 'root_path' or key not in self:
            super().__setitem__(key, value)


def _rerooted(opt: dict[str, Any], old_root: str, new_root: str) -> _RootedOptions:
    """Move the output paths that BasicSR put below `old_root` (all but those given by the user)."""
    for key in ('experiments_root', 'models', 'training_states', 'results_root', 'log', 'visualization'):
        path = opt['path'].get(key)
        if path is not None and path.startswith(osp.join(old_root, '')):
            opt['path'][key] = osp.join(new_root, osp.relpath(path, old_root))
    return _RootedOptions(opt, root_path=new_root)


def _replace_load_resume_state(caller: dict[str, Any]) -> None:
    """Give a running `basicsr/train.py` (imported, or the copy executed as `__main__`) our function."""
    if _is_copy_of(caller, 'train'):
        caller['load_resume_state'] = load_resume_state


def _replace_builders(caller: dict[str, Any], opt: dict[str, Any]) -> None:
    """Let a model of the plugin get its data from :class:`DataSupply`, any other model from BasicSR.

    BasicSR starts an interrupted epoch anew, and an unreadable image ends in an error that does not name it. Its
    TensorBoard writer loses the last events where a training ends by a signal or an error.
    """
    from basicsr import data
    from basicsr.data.data_sampler import EnlargedSampler
    from basicsr.utils import init_tb_logger
    from basicsr.utils.registry import MODEL_REGISTRY

    from irnsigma_plugin.data.supply import DataSupply

    create = inspect.unwrap(caller.get('create_train_val_dataloader'))  # none in basicsr.test
    builders = {'build_dataset': data.build_dataset, 'build_dataloader': data.build_dataloader,
                'EnlargedSampler': EnlargedSampler, 'init_tb_logger': init_tb_logger,
                'create_train_val_dataloader': create}
    if opt['model_type'] in MODEL_REGISTRY and _is_of_plugin(MODEL_REGISTRY.get(opt['model_type'])):
        supply = DataSupply(opt)
        builders = {'build_dataset': supply.build_dataset, 'build_dataloader': supply.build_dataloader,
                    'EnlargedSampler': supply.build_sampler, 'init_tb_logger': _tb_logger_closed_at_exit,
                    'create_train_val_dataloader': create and supply.lasting(create)}
    if _is_copy_of(caller, 'train') or _is_copy_of(caller, 'test'):
        caller.update((name, builder) for name, builder in builders.items() if name in caller)


def _tb_logger_closed_at_exit(log_dir: str) -> Any:
    from basicsr.utils import init_tb_logger

    writer = init_tb_logger(log_dir)
    if writer is not None:  # of the first process
        atexit.register(writer.close)
    return writer


def _is_copy_of(caller: dict[str, Any], name: str) -> bool:
    module = sys.modules.get(f'basicsr.{name}')
    return module is not None and osp.realpath(caller.get('__file__', '')) == osp.realpath(module.__file__)


def load_resume_state(opt: dict[str, Any]) -> dict[str, Any] | None:
    """Find and read the training state to resume from; works without a GPU.

    Takes the place of the function in `basicsr.train`, which asks for the current CUDA device, looks for
    `--auto_resume` in a folder that is not the one written to, and takes the newest file even if a kill left
    it incomplete. The state is read to the CPU: optimizers move their tensors to the parameters' device.

    Args:
        opt: Parsed options. `path.resume_state` is set to the file that `--auto_resume` chooses, `resume_at` to the
            place in the data.

    Returns:
        The training state, or None to start from the beginning.

    Raises:
        RuntimeError: The file of `path.resume_state` cannot be read.
    """
    from basicsr.utils import check_resume

    from irnsigma_plugin.checkpoints.training_states import first_line, newest_whole_state, read_state, remove_leftovers

    if uses_plugin(opt):
        folder = opt['path']['training_states']
        if opt['rank'] == 0:
            remove_leftovers((folder, opt['path']['models']))
    else:
        folder = osp.join('experiments', opt['name'], 'training_states')  # where BasicSR looks
    state = None
    if opt['auto_resume']:
        path, state = newest_whole_state(opt, folder)
        if state is not None:
            opt['path']['resume_state'] = path
    elif opt['path'].get('resume_state'):
        path = opt['path']['resume_state']
        try:
            state = read_state(path)
        except Exception as error:
            raise RuntimeError(
                f'cannot read the training state {path} (path.resume_state): {first_line(error)}. Name '
                'a whole one, or use --auto_resume, which finds the newest whole one itself.') from error
    if state is not None:
        check_resume(opt, state['iter'])
        # For the order of images, and the count of epochs. States that BasicSR saved have no `seen`.
        opt['resume_at'] = {'epoch': state['epoch'], 'iter': state['iter'], 'seen': state.get('seen', 0)}
    return state


def launch_without_gpu() -> None:
    """Let `--launcher pytorch` and `--launcher slurm` work on machines without a GPU, over gloo.

    BasicSR divides by the number of GPUs and asks for NCCL.
    """
    from basicsr.utils import dist_util

    with_gpu = {launcher: getattr(dist_util, f'_init_dist_{launcher}') for launcher in ('pytorch', 'slurm')}
    if with_gpu['pytorch'].__module__ == __name__:
        return

    def _init_dist_pytorch(backend, **kwargs):
        _require_launcher('pytorch', 'RANK', 'torchrun --nproc_per_node=N')
        if _has_cuda():
            with_gpu['pytorch'](backend, **kwargs)
        else:
            _init_gloo(**kwargs)

    def _init_dist_slurm(backend, port=None):
        _require_launcher('slurm', 'SLURM_PROCID', 'srun --ntasks=N python')
        if _has_cuda():
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

    torch.distributed.init_process_group(backend='gloo', **kwargs)
    atexit.register(_leave)


def _leave() -> None:
    import torch

    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _require_launcher(launcher: str, variable: str, command: str) -> None:
    if variable not in os.environ:
        raise RuntimeError(f'--launcher {launcher} needs the processes of a launcher, but {variable} is not set. Start '
                           f'with `{command} -m basicsr.train -opt ... --launcher {launcher}`, or leave out --launcher '
                           'for a single process.')


def _describe_slurm_to_torch(port: int | str | None) -> None:
    """Set the environment variables of torch's rendezvous from Slurm's; the first node leads."""
    from irnsigma_plugin.checkpoints.training_states import first_line

    nodes = os.environ['SLURM_NODELIST']
    try:
        hosts = subprocess.run(['scontrol', 'show', 'hostname', nodes], check=True, text=True,
                               capture_output=True, stdin=subprocess.DEVNULL).stdout.split()
        address = hosts[0]
    except (OSError, subprocess.CalledProcessError, IndexError) as error:
        raise RuntimeError(f'--launcher slurm cannot learn the first of the nodes {nodes}: `scontrol show hostname` '
                           f'failed ({first_line(error)}). Put scontrol on PATH, or use --launcher pytorch with '
                           'torchrun.') from error
    os.environ.update(MASTER_ADDR=address, WORLD_SIZE=os.environ['SLURM_NTASKS'], RANK=os.environ['SLURM_PROCID'])
    os.environ['MASTER_PORT'] = str(port or os.environ.get('MASTER_PORT', _DEFAULT_PORT))


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()
