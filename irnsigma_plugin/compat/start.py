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
from typing import Any

import torch
from torch import nn

from irnsigma_plugin.checkpoints.training_states import iterations, newest_whole_state, read_state
from irnsigma_plugin.checks import did_you_mean, one_line
from irnsigma_plugin.compat.extensions import failures, import_installed, import_named
from irnsigma_plugin.compat.registry import has_model_of_plugin, registered, unregistered, uses_plugin
from irnsigma_plugin.files import remove_leftovers
from irnsigma_plugin.options.check import MODEL, option_faults, outside_faults
from irnsigma_plugin.options.file import read_option_file
from irnsigma_plugin.options.rules import OptionError, refuse, value_at
from irnsigma_plugin.options.train_val import expand_metrics

_logger = logging.getLogger(__name__.partition('.')[0])
# By module: names in it that are replaced for the last option file, by what, and what they were before.
_replaced: dict[str, dict[str, tuple[Any, Any]]] = {}


def load_resume_state(opt: dict[str, Any]) -> dict[str, Any] | None:
    """Find and read the training state to resume from, to the CPU; None to start from the beginning.

    BasicSR's own needs a GPU, searches another folder than it writes to, and takes the newest file even if a kill left
    it incomplete. This one sets `path.resume_state`, chosen by `--auto_resume`, and `resume_at`, the place in the data.
    It exits where the training is complete.
    """
    from basicsr.utils import check_resume

    folder = osp.join('experiments', opt['name'], 'training_states')  # where BasicSR looks
    if uses_plugin(opt):
        folder = opt['path']['training_states']
        if opt['rank'] == 0:
            remove_leftovers((folder, opt['path']['models']))
    state = None
    if opt['auto_resume']:
        path, state = newest_whole_state(opt, folder)
        if path is not None:
            opt['path']['resume_state'] = path
    elif opt['path'].get('resume_state'):
        path = opt['path']['resume_state']
        try:
            state = read_state(path)
        except Exception as error:
            raise RuntimeError(
                f'cannot read the training state {path} (path.resume_state): {one_line(error)}. Name a whole one, or '
                'use --auto_resume, which finds the newest whole one itself.'
            ) from error
    if state is not None:
        total = value_at(opt, 'train.total_iter')
        if state.get('complete') and state['iter'] >= total:
            if opt['rank'] == 0:
                remedy = f'Raise train.total_iter, {int(total)}, to go on.'
                _logger.warning('The training is complete: %s. %s', opt['path']['resume_state'], remedy)
            raise SystemExit(0)
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
    from basicsr.utils import options

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
            opt, args = original(root_path, is_train=is_train)
        except (AttributeError, KeyError, TypeError, ValueError):
            _explain(is_train)
            raise
        import_named(opt.get('imports'))
        expand_metrics(opt)
        if uses_plugin(opt):
            if osp.realpath(root_path) == osp.realpath(site_root):
                opt = _rerooted(opt, root_path, os.getcwd())
            _check(opt, is_train, args.opt)
            if not opt['dist']:
                _take_one_gpu(opt)
        _replace_functions(caller, opt)
        return opt, args

    for name in ('basicsr.utils.options', 'basicsr.train', 'basicsr.test', '__main__'):
        module = sys.modules.get(name)
        if getattr(module, 'parse_options', None) is original:
            vars(module)['parse_options'] = parse_options


def _take_one_gpu(opt: dict[str, Any]) -> None:
    """Use one GPU where there is one process.

    BasicSR's DataParallel multiplies the batch, takes float16 for bfloat16 in its threads, and cannot be compiled.
    """
    if opt['num_gpu'] > 1 and has_model_of_plugin(opt):
        command = f'torchrun --nproc_per_node={opt["num_gpu"]} -m basicsr.train -opt ... --launcher pytorch'
        _logger.warning('One process uses one of the %d GPUs. For all of them: %s', opt['num_gpu'], command)
        opt['num_gpu'] = 1


def _check(opt: dict[str, Any], is_train: bool, option_file: str) -> None:
    """Refuse an option file with faults, and processes unaware of each other, before anything is built or written."""
    count = os.environ.get('WORLD_SIZE', '1')
    if not opt['dist'] and count != '1' and 'TORCHELASTIC_RUN_ID' in os.environ:  # set by torchrun
        raise RuntimeError(
            f'torchrun started {count} processes, but each would do the whole work and write the same files: add '
            '--launcher pytorch after -opt.'
        )
    resumes = opt['auto_resume'] and bool(iterations(opt['path'].get('training_states', '')))
    known = registered()
    faults = [*option_faults(opt, is_train, known), *_unknown_types(opt), *_optimizer_faults(opt)]
    refuse([*faults, *outside_faults(opt, known, resumes)], option_file)


def _unknown_types(opt: dict[str, Any]) -> Iterator[str]:
    """Types that neither BasicSR nor this plugin nor an extension has registered."""
    failed = failures()  # told once
    for name, kind, known in unregistered(opt):
        if name == 'model_type' or opt.get('model_type') == MODEL:  # other models may read their blocks in other ways
            extension = 'If it is of an extension, install that, or name it in imports.'
            yield f'{name}: there is no {kind}.{did_you_mean(kind, known)} {extension}{failed}'
            failed = ''


def _optimizer_faults(opt: dict[str, Any]) -> Iterator[str]:
    """Optimisers that the installed BasicSR does not know; its releases know Adam alone, its git master more."""
    from basicsr.models.base_model import BaseModel

    for key in ('optim_g', 'optim_d') if has_model_of_plugin(opt) else ():
        kind = value_at(opt, f'train.{key}.type')
        try:
            if kind is not None:
                BaseModel.get_optimizer(None, kind, [nn.Parameter(torch.zeros(1))], lr=0.1)
        except NotImplementedError:
            yield f'train.{key}.type: the installed BasicSR has no {kind}; take Adam.'


def _explain(is_train: bool) -> None:
    """List the faults of an option file that BasicSR could not even read to the end."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument('-opt')
    option_file = parser.parse_known_args()[0].opt
    try:
        opt = read_option_file(option_file)
    except OptionError:  # then BasicSR's own error says more
        return
    import_named(value_at(opt, 'imports'))
    expand_metrics(opt)
    if uses_plugin(opt):
        refuse(option_faults(opt, is_train, registered()), option_file)


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
    if has_model_of_plugin(opt):
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
