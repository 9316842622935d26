#!/usr/bin/env python
"""The paper's comparison, made here: trains IRN, IRN+ and IRN_sigma from one start, measures them, draws the figures.

Everything lies below DIR: `options/` (derived from the shipped option files, the differences at their top),
`experiments/`, `results/`, `logs/`, and at the end `report/report.md` with table 1 and figures 2a, 2b and 3 of the
paper, each as CSV and PNG. The same command again goes on where it was interrupted, by Ctrl-C, a kill or a power cut,
and leaves out what is done. More --test folders can be added later.
"""

from __future__ import annotations

import argparse
import platform
import shlex
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from study import measured, plan
from study.report import write_report
from study.steps import Journal, Step, StudyError

from irnsigma_plugin.commands.arguments import parse_gain
from irnsigma_plugin.compat.registry import registered
from irnsigma_plugin.compat.start import all_faults
from irnsigma_plugin.evaluation.dists import check_dists
from irnsigma_plugin.evaluation.measures import hr_metrics
from irnsigma_plugin.files import atomic_write
from irnsigma_plugin.imagenet.weights import WeightsError, imagenet_weights
from irnsigma_plugin.images.names import is_image_name
from irnsigma_plugin.images.picture import ImageReadError
from irnsigma_plugin.options.check import outside_faults
from irnsigma_plugin.options.rules import OptionError, refuse, value_at

EPILOG = """\
`small` is for two CPU cores, `medium` for a GPU, `paper` is the paper's schedule on DIV2K. Lengths are counted in
iterations.

examples:
  python scripts/reproduce.py --budget small study --train BSDS400 --test datasets/BSD100/HR
  python scripts/reproduce.py --budget paper study --start IRN_x4.pth --test datasets/BSD100/HR datasets/Urban100/HR
"""


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, epilog=EPILOG
    )
    add = parser.add_argument
    add('folder', type=Path, metavar='DIR', help='where everything goes')
    add('--budget', choices=plan.BUDGETS, required=True, metavar='{small,medium,paper}', help='how long to train')
    add('--train', type=Path, metavar='FOLDER', help='photographs (default: BSDS400, or DIV2K_train_HR for `paper`)')
    test_help = 'folders of originals, of which X/HR is called X (default: datasets/BSD100/HR)'
    add('--test', type=Path, nargs='+', default=[Path('datasets/BSD100/HR')], metavar='FOLDER', help=test_help)
    add('--start', type=Path, metavar='FILE', help='checkpoint, in place of IRN that is trained first')
    start_help = 'checkpoint of the discriminator, from which all arms that have one start'
    add('--start-discriminator', type=Path, metavar='FILE', help=start_help)
    add('--iterations', type=int, metavar='N', help="of each arm (default: the budget's)")
    force_help = "changes of all trainings, as BasicSR's --force_yml: datasets:train:batch_size_per_gpu=4 train:amp=off"
    add('--force_yml', nargs='+', default=[], metavar='KEY=VALUE', help=force_help)
    add('--seed', type=int, help="of the trainings (default: the option files')")
    names = [plan.short_name(each) for each in plan.SAMPLINGS]
    sampling_help = f'how IRN_sigma draws sigma in training, one training each; {names[0]} comes always (default: all)'
    add('--samplings', nargs='+', choices=names, default=names, help=sampling_help)
    plus_help = "lambdas and VGG layers of IRN+'s loss: those of IRN_sigma's option file (default), or its authors'"
    add('--irn-plus', choices=('same', 'authors'), default='same', help=plus_help)
    gain_help = 'multiply the weights of sigma in IRN_sigma before its tests, as `irnsigma export --sigma-gain`'
    add('--sigma-gain', type=parse_gain, default=1, metavar='G', help=gain_help)
    for name in plan.OTHERS:
        add(f'--{name.lower()}', type=Path, metavar='FILE', help=f"{name}'s checkpoint, to be measured, too")
    args = parser.parse_args(argv)
    args.train = args.train or Path(plan.BUDGETS[args.budget].photographs)
    for name in ('train', 'start', 'start_discriminator', *map(str.lower, plan.OTHERS)):
        if (path := getattr(args, name)) and not path.exists():
            parser.error(f'{path} does not exist: name the right one with --{name.replace("_", "-")}')
    try:
        args.force_yml = plan.forced(args.force_yml)
    except ValueError as error:
        parser.error(str(error))
    if args.iterations is not None and args.iterations < 1:
        parser.error(f'--iterations {args.iterations}: name at least one')
    for path in args.test:
        if not path.is_dir() or not any(is_image_name(each.name) for each in path.iterdir()):
            parser.error(f'{path} has no images: name folders of originals with --test')
    if len(set(map(data_set_name, args.test))) < len(args.test):
        parser.error('--test: two folders have the same name, and their results would be mixed; rename one')
    return args


def data_set_name(folder: Path) -> str:
    """What to call a folder of originals."""
    folder = folder.resolve()
    return folder.parent.name if folder.name == 'HR' else folder.name


def main(argv: list[str] | None = None) -> int:
    """Run the study; returns the exit status."""
    args = parse_arguments(argv)
    try:
        with Journal(args.folder.resolve()) as journal:
            run(args, journal, f'python scripts/reproduce.py {shlex.join(sys.argv[1:] if argv is None else argv)}')
    except (OptionError, StudyError, WeightsError, ImageReadError, OSError, KeyboardInterrupt) as error:
        print(f'{str(error) or "Interrupted."}\nThe same command again goes on from here.', file=sys.stderr)
        return 130 if isinstance(error, KeyboardInterrupt) else 1
    return 0


def run(args: argparse.Namespace, journal: Journal, command: str) -> None:
    """Do whatever is not done yet, and write the report."""
    folder = journal.folder
    dists = can_measure_dists()
    budget = plan.BUDGETS[args.budget]
    if args.iterations:
        budget = budget._replace(arms=args.iterations)
    asked = {plan.short_name(plan.IRN_SIGMA), *args.samplings}
    samplings = [name for name in plan.SAMPLINGS if plan.short_name(name) in asked]
    budget = budget._replace(
        changes={**budget.changes, **args.force_yml}, samplings=samplings, authors_plus=args.irn_plus == 'authors'
    )
    begin = plan.Start(*(path and path.resolve() for path in (args.start, args.start_discriminator)))
    trainings = plan.trainings(budget, folder / 'datasets', begin, args.seed)
    losses = filter(None, (value_at(each.options, 'train.perceptual_opt') for each in trainings))
    for net in sorted({'alexnet', *(loss['vgg_type'] for loss in losses if loss.get('weights') != 'random')}):
        imagenet_weights(net)  # a WeightsError now, not after hours
    check(trainings)
    metrics = hr_metrics(measured.SCALE, dists=dists)
    sets = [measured.DataSet(data_set_name(path), path.resolve(), folder, metrics) for path in args.test]
    steps = list(training_steps(args, folder, trainings))
    arms = trainings[-len(budget.arm_names) :]
    if args.sigma_gain != 1:
        steps += gain_steps(arms, args.sigma_gain)
    for data in sets:
        steps += measuring_steps(args, data, arms, 'paper+dists' if dists else 'paper', journal.done)
    journal.run(steps)
    cost = [
        {
            'training': each.name,
            'option file': each.source,
            'iterations': each.options['train']['total_iter'],
            'batch': each.options['datasets']['train']['batch_size_per_gpu'],
            'hours': f'{journal.seconds[f"train {each.name}"] / 3600:.2f}',
        }
        for each in trainings
    ]
    report = folder / 'report'
    report.mkdir(exist_ok=True)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f'{torch.get_num_threads()} CPU threads'
    machine = f'{device}, {platform.machine()}, torch {torch.__version__}'
    same = 'All but the start have the same start, data, batches, seed, learning rates and number of iterations.'
    if args.irn_plus == 'authors':
        same += " IRN+ has the weights of its authors' loss."
    if args.sigma_gain != 1:
        same += f' After the training the weights of σ in IRN_σ were multiplied by {args.sigma_gain:g}.'
    write_report(report, sets, f'`{command}`\n\n{machine}. {same}', cost)
    print(f'Report: {report / "report.md"}')


def check(trainings: list[plan.OptionFile]) -> None:
    """Refuse option files with faults, and checkpoints that do not fit, now and not after hours."""
    for name, _, options in trainings:
        given = {key: path for key, path in options['path'].items() if not str(path).startswith('experiments/')}
        checkpoints = {**options, 'datasets': {}, 'train': {}, 'val': {}, 'path': given}
        faults = all_faults(options, True, name, here=False) + outside_faults(checkpoints, registered())
        refuse((f'{name}: {fault}' for fault in faults), 'The study')


def training_steps(args: argparse.Namespace, folder: Path, trainings: list[plan.OptionFile]) -> Iterator[Step]:
    """Steps that make the training data, and train."""
    budget, patch = plan.BUDGETS[args.budget], trainings[0].options['datasets']['train']['gt_size']
    prepare = [sys.executable, '-m', 'irnsigma_plugin.cli', 'prepare', str(args.train.resolve())]
    prepare += [str(folder / 'datasets'), '--name', 'train']
    prepare += ['--crop-size', str(budget.crop), '--step', str(budget.step), '--min-size', str(patch)]
    yield Step(f'prepare {args.train.resolve()}', 'data set', 1, prepare)
    for file in trainings:
        kind = 'adversarial iterations' if 'network_d' in file.options else 'iterations'
        command = basicsr('train', folder, file, '--auto_resume')
        yield Step(f'train {file.name}', kind, int(file.options['train']['total_iter']), command)


def gain_steps(arms: list[plan.OptionFile], gain: float) -> Iterator[Step]:
    """Steps that multiply the weights of sigma; a StudyError if the networks have none."""
    for arm in arms:
        if arm.name in plan.SAMPLINGS:
            if not arm.options['network_g'].get('sigma_input'):
                raise StudyError(f'--sigma-gain needs network_g.sigma_input: true, which {arm.source} does not have.')
            source, target = plan.checkpoint(arm.name), plan.checkpoint(arm.name, gain).parent
            export = [sys.executable, '-m', 'irnsigma_plugin.cli', 'export', str(source), str(target)]
            export += ['--format', 'safetensors', '--sigma-gain', f'{gain:g}']
            yield Step(f'gain {gain:g} of {arm.name}', 'network', 1, export)


def measuring_steps(
    args: argparse.Namespace, data: measured.DataSet, arms: list[plan.OptionFile], metrics: str, done: Sequence[str]
) -> Iterator[Step]:
    """Steps that measure everything on a data set; tests that are not `done` may have other settings than before."""
    count, where = len(data.images()), f'images of {data.name}'
    for arm in arms:
        file = plan.test_of(arm, data.name, data.folder, metrics, args.sigma_gain)
        work = count * len(file.options['val']['sigmas'])
        command = basicsr('test', data.study, file, may_change=f'test {file.name}' not in done)
        yield Step(f'test {file.name}', f'restored {where}', work, command)
    for name in plan.OTHERS:
        if checkpoint := getattr(args, name.lower()):
            file = plan.test_of_other(name, checkpoint.resolve(), data.name, data.folder)
            yield Step(f'test {file.name}', f'{name} {where}', count, basicsr('test', data.study, file))
            yield Step(f'measure {file.name}', where, count, partial(measured.measure_saved, data, name))
    checkpoints = {arm.name: data.study / plan.checkpoint(arm.name) for arm in arms}
    weights = partial(measured.measure_weights, data, checkpoints, plan.param_key(arms[0].options))
    work = count * len(measured.BETWEEN)
    yield Step(f'measure {measured.WEIGHTS}_{data.name}', f'restored {where}', work, weights)
    for name in (measured.IMAGES, measured.BLEND):
        yield Step(f'measure {name}_{data.name}', where, work, partial(measured.measure_blends, data, name))


def basicsr(what: str, folder: Path, file: plan.OptionFile, *more: str, may_change: bool = False) -> list[str]:
    """Write an option file, or see that it is the one that was there; returns the command that runs it."""
    path = folder / 'options' / f'{what}_{file.name}.yml'
    before = path.read_text(encoding='utf-8') if path.exists() else None
    if before is None or may_change and before != file.text:
        print(f'{path} is options/{file.source}, but', *file.differences, sep='\n    ')
        path.parent.mkdir(exist_ok=True)
        atomic_write(path, file.text.encode())
    elif before != file.text:
        changed = ''.join(f'\n  {line}' for line in file.text.splitlines() if line not in before.splitlines())
        raise StudyError(f'{path} is of a study with other settings; choose another DIR. It would have now:{changed}')
    return [sys.executable, '-m', f'basicsr.{what}', '-opt', str(path), *more]


def can_measure_dists() -> bool:
    """Whether DISTS can be measured; it is left out otherwise."""
    try:
        check_dists()
        return True
    except WeightsError as error:
        print(f'DISTS is left out: {error}', file=sys.stderr)
        return False


if __name__ == '__main__':
    sys.exit(main())
