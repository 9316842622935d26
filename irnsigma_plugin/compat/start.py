"""What happens between the command line and BasicSR's training or test."""

from __future__ import annotations

import argparse
import atexit
import logging
import os
import os.path as osp
import re
import sys
from collections import OrderedDict
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from irnsigma_plugin.checkpoints.training_states import iterations, newest_whole_state, occupy, read_named_state
from irnsigma_plugin.checks import is_whole, one_line
from irnsigma_plugin.compat.extensions import failures, import_installed, import_named
from irnsigma_plugin.compat.registry import registered, uses_plugin
from irnsigma_plugin.files import remove_leftovers
from irnsigma_plugin.options import check
from irnsigma_plugin.options.file import read_option_file
from irnsigma_plugin.options.keys import OPTIMIZER
from irnsigma_plugin.options.rules import OptionError, refuse, value_at, without_type
from irnsigma_plugin.options.train_val import expand_metrics

_logger = logging.getLogger(__name__.partition('.')[0])
# By module: names in it that are replaced for the last option file, by what, and what they were before.
_replaced: dict[str, dict[str, tuple[Any, Any]]] = {}


def load_resume_state(opt: dict[str, Any]) -> dict[str, Any] | None:
    """Find and read the training state to resume from, to the CPU; None to start from the beginning.

    BasicSR's own needs a GPU, searches another folder than it writes to, and takes the newest file even if a kill left
    it incomplete. This one sets `path.resume_state`, chosen by `--auto_resume`, and `resume_at`, the place in the data.
    It exits where the training is complete, and refuses to start where another process trains under this `name`.
    """
    from basicsr.utils import check_resume

    from irnsigma_plugin.training.distributed import on_all_ranks

    folder = osp.join('experiments', opt['name'], 'training_states')  # where BasicSR looks
    if uses_plugin(opt):
        folder = opt['path']['training_states']

        def claim() -> None:
            if opt['rank'] == 0:
                occupy(opt['path']['experiments_root'])
                remove_leftovers((folder, opt['path']['models']))

        on_all_ranks('The start', claim)
    state = None
    if opt['auto_resume']:
        path, state = newest_whole_state(opt, folder)
        if path is not None:
            opt['path']['resume_state'] = path
    elif opt['path'].get('resume_state'):
        state = read_named_state(opt, opt['path']['resume_state'], opt['path']['models'])
    found = on_all_ranks('Resuming', lambda: None if state is None else state['iter'])
    if len(set(found)) > 1:
        each = ', '.join(
            f'{"none" if iteration is None else iteration} (rank {rank})' for rank, iteration in enumerate(found)
        )
        remedy = 'all processes need the same folder, with the same files.'
        raise RuntimeError(f'{folder}: the newest states that can be read differ in their iteration: {each}; {remedy}')
    if state is not None:
        total = value_at(opt, 'train.total_iter')
        if state.get('complete') and state['iter'] >= total:
            if opt['rank'] == 0:
                remedy = f'Raise train.total_iter, {int(total)}, to go on.'
                _logger.warning('The training is complete: %s. %s', opt['path']['resume_state'], remedy)
            raise SystemExit(0)
        if state['iter'] > total:
            beyond = f'{opt["path"]["resume_state"]} is of iteration {state["iter"]}'
            remedy = 'raise it, or name an earlier state as path.resume_state.'
            raise RuntimeError(f'{beyond}, but train.total_iter is {int(total)}: {remedy}')
        check_resume(opt, state['iter'])
        # For the order of images, and the count of epochs. States that BasicSR saved have no `seen`.
        opt['resume_at'] = {'epoch': state['epoch'], 'iter': state['iter'], 'seen': state.get('seen', 0)}
    return state


def replace_parse_options() -> None:
    """Do, right after BasicSR has read an option file, what has to be done before anything is built or written.

    An option file of this plugin is checked as a whole: its faults would come to light one by one, some after hours. It
    writes below the current directory: `python -m basicsr.train` takes site-packages for that, where `--auto_resume`
    does not look. The copy of `basicsr.train` that runs as `__main__` can be reached once it calls `parse_options`.
    """
    import basicsr
    from basicsr.utils import options, set_random_seed

    original = options.parse_options
    if original.__module__ == __name__:
        return
    site_root = osp.abspath(osp.join(basicsr.__file__, '../..'))

    def parse_options(root_path, is_train=True):
        caller = sys._getframe(1).f_globals
        # `python -m torch.distributed.launch` passes the first since torch 2.0; BasicSR knows the second.
        sys.argv[1:] = [re.sub('^--local-rank(?==|$)', '--local_rank', argument) for argument in sys.argv[1:]]
        import_installed()  # those that had to wait
        try:
            opt, args = parse(root_path, is_train)
        except OptionError as error:
            if caller['__name__'] == '__main__':
                raise SystemExit(str(error)) from None  # 1, without a traceback, in which nobody would find it
            raise
        _replace_functions(caller, opt)
        return opt, args

    def parse(root_path, is_train):
        try:
            opt, args = original(root_path, is_train=is_train)
        except Exception:
            _explain(is_train)
            raise
        import_named(opt.get('imports'))
        expand_metrics(opt)
        if uses_plugin(opt):
            if osp.realpath(root_path) == osp.realpath(site_root):
                opt = _rerooted(opt, root_path, os.getcwd())
            read_option_file(args.opt)  # keys that stand there twice, of which BasicSR takes one
            refuse(all_faults(opt, is_train, args.opt), args.opt)
            set_random_seed(opt['manual_seed'] + opt['rank'])  # which BasicSR has done before it reads --force_yml
            if not opt['dist']:
                _take_one_gpu(opt)
        return opt, args

    for name in ('basicsr.utils.options', 'basicsr.train', 'basicsr.test', '__main__'):
        module = sys.modules.get(name)
        if getattr(module, 'parse_options', None) is original:
            vars(module)['parse_options'] = parse_options


def _take_one_gpu(opt: dict[str, Any]) -> None:
    """Use one GPU where there is one process.

    BasicSR's DataParallel multiplies the batch, takes float16 for bfloat16 in its threads, and cannot be compiled.
    """
    if opt['num_gpu'] > 1 and check.has_model_of_plugin(opt, registered()):
        command = f'torchrun --nproc_per_node={opt["num_gpu"]} -m basicsr.train -opt ... --launcher pytorch'
        _logger.warning('One process uses one of the %d GPUs. For all of them: %s', opt['num_gpu'], command)
        opt['num_gpu'] = 1


def all_faults(opt: Any, is_train: bool, option_file: str, here: bool = True, imported: bool = True) -> list[str]:
    """What is wrong with an option file, to a run and to `irnsigma check` alike, a sentence each.

    The file may be as it was read, or as BasicSR has completed it. If the run is not to be `here`, the images, weights,
    GPUs and packages of this machine do not count. Where what it `imports` was not `imported`, types that nobody has
    registered are no fault.
    """
    known = registered()
    if here and value_at(opt, 'num_gpu') == 'auto':
        opt = {**opt, 'num_gpu': torch.cuda.device_count()}
    faults = check.option_faults(opt, is_train, known)
    if not isinstance(value_at(opt, 'model_type'), str):
        return faults
    unknown = [*check.unknown_types(opt, known).values()] if imported else []
    faults += [f'{fault}{failures() * (fault is unknown[0])}' for fault in unknown]  # which are told once
    if here:
        faults += [*_machine_faults(opt, is_train, option_file), *_optimizer_faults(opt)]
        resumes = opt.get('auto_resume') and bool(iterations(value_at(opt, 'path.training_states') or ''))
        faults += check.outside_faults(opt, known, resumes)
    return faults


def _machine_faults(opt: dict[str, Any], is_train: bool, option_file: str) -> Iterator[str]:
    """What BasicSR would stumble over on this machine, some of it after it has renamed the folder of an earlier run."""
    count = os.environ.get('WORLD_SIZE', '1')
    if not opt.get('dist') and count != '1' and 'TORCHELASTIC_RUN_ID' in os.environ:  # set by torchrun
        remedy = 'add --launcher pytorch after -opt.'
        yield f'torchrun started {count} processes, but each would do the whole work and write the same files: {remedy}'
    if is_whole(opt.get('num_gpu')) and not torch.cuda.device_count():
        yield f'num_gpu is {opt["num_gpu"]}, but torch finds no GPU here: set it to auto, or to 0 for the CPU.'
    for package, key in (('tensorboard', 'logger.use_tb_logger'), ('wandb', 'logger.wandb.project')):
        if is_train and value_at(opt, key) and find_spec(package) is None:
            yield f'{key} needs a package that is not installed: pip install {package}, or leave it out.'
    folder = check.results_folder(opt)
    if is_train and check.is_inside(option_file, folder):
        yield f'{option_file} is in {folder}, which BasicSR renames or copies it into: copy it elsewhere.'
    found = next(filter(osp.lexists, (folder, osp.dirname(folder), '.')))
    if not (osp.isdir(found) and os.access(found, os.W_OK)):
        yield f'name: {folder} cannot be made, for nothing can be written into {found}.'


def _optimizer_faults(opt: dict[str, Any]) -> Iterator[str]:
    """Optimisers that the installed BasicSR, whose releases know Adam alone, or torch does not take."""
    from basicsr.models.base_model import BaseModel

    for key in ('optim_g', 'optim_d') if check.has_model_of_plugin(opt, registered()) else ():
        block = value_at(opt, f'train.{key}')
        try:
            if block is not None and not any(OPTIMIZER('', block)):
                parameter = nn.Parameter(torch.zeros(1))
                parameter.sum().backward()
                arguments = {'lr': 0.1} if opt.get('num_gpu') else without_type(block)  # on a GPU others are good
                BaseModel.get_optimizer(None, block['type'], [parameter], **arguments).step()
        except NotImplementedError:
            yield f'train.{key}.type: the installed BasicSR has no {block["type"]}; take Adam.'
        except Exception as error:  # of any kind
            yield f'train.{key}: torch does not take this: {one_line(error)}'


def _explain(is_train: bool) -> None:
    """List the faults of an option file that BasicSR could not even read to the end."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument('-opt')
    parser.add_argument('--launcher')
    given, _ = parser.parse_known_args()
    option_file = given.opt
    opt = read_option_file(option_file)
    import_named(value_at(opt, 'imports'))
    expand_metrics(opt)
    if uses_plugin(opt) or not isinstance(opt, dict):
        faults = all_faults(opt, is_train, option_file)
        if given.launcher == 'slurm' and isinstance(opt, dict) and opt.get('dist_params', ...) is None:
            faults.append('dist_params is empty, which BasicSR does not take with --launcher slurm: leave it out.')
        refuse(faults, option_file)


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


def _replace_functions(caller: dict[str, Any], opt: dict[str, Any]) -> None:
    """Give a running `basicsr/train.py` or `test.py` what it shall use instead of BasicSR's functions, for this file.

    BasicSR starts an interrupted epoch anew, and does not name an image that cannot be read.
    """
    from irnsigma_plugin.training.supply import DataSupply

    copied = [str(sys.modules[name].__file__) for name in ('basicsr.train', 'basicsr.test') if name in sys.modules]
    if osp.realpath(caller.get('__file__', '')) not in map(osp.realpath, copied):
        return
    for name, (ours, theirs) in _replaced.pop(caller['__name__'], {}).items():  # for an earlier option file
        if caller.get(name) is ours:
            caller[name] = theirs
    functions: dict[str, Any] = {}
    if uses_plugin(opt) or not torch.cuda.is_available():
        functions['load_resume_state'] = load_resume_state
    if check.has_model_of_plugin(opt, registered()):
        supply = DataSupply(opt)
        functions.update(build_dataset=supply.build_dataset, build_dataloader=supply.build_dataloader)
        functions.update(EnlargedSampler=supply.build_sampler, init_tb_logger=_tb_logger_closed_at_exit)
        if 'create_train_val_dataloader' in caller:  # not in basicsr.test
            functions['create_train_val_dataloader'] = supply.lasting(caller['create_train_val_dataloader'])
    replaced = {name: (ours, caller[name]) for name, ours in functions.items() if name in caller}
    _replaced[caller['__name__']] = replaced
    caller.update({name: ours for name, (ours, _) in replaced.items()})


def _tb_logger_closed_at_exit(log_dir: str) -> Any:
    """BasicSR's writer, which would lose the last events where a training ends by a signal or an error."""
    from basicsr.utils import init_tb_logger

    writer = init_tb_logger(log_dir)
    if writer is not None:  # of the first process
        atexit.register(writer.close)
    return writer
