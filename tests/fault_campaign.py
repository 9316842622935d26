#!/usr/bin/env python
"""Interrupt a small training in many ways and check that it always goes on.

    python tests/fault_campaign.py --kills 100

Every round lets the training go on until it has saved something new, strikes, and lets it resume and finish:

    kill         kill -9 at a random moment
    kill_saving  kill -9 while a file is being written
    terminate    SIGTERM, and interrupt, Ctrl-C: the training has to save and to end by itself
    disk_full    no file may grow beyond a size: the training has to say so and to end by itself
    corrupt      kill -9, then the newest state is truncated, emptied or overwritten

A checkpoint is lost if the training resumes from an iteration before the newest state that was complete when it was
struck. The end status is 1 if any was, or if a round ended in any other way than it should.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

REPO_ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO_ROOT))  # `helpers` is beside this file
os.environ['OMP_NUM_THREADS'] = '1'  # small tensors; and no threads that a fork would lose

import irnsigma_plugin  # noqa: E402, F401, I001
from basicsr.train import train_pipeline  # noqa: E402
from helpers.experiment import options_to_train, write_photographs, write_yaml  # noqa: E402

from irnsigma_plugin.files import TEMPORARY_NAME  # noqa: E402
from irnsigma_plugin.checkpoints.training_states import iterations, newest_whole_state  # noqa: E402

OTHER_STRIKES = ('terminate', 'interrupt', 'disk_full', 'corrupt')
STATUS = {'terminate': 128 + signal.SIGTERM, 'interrupt': 128 + signal.SIGINT, 'disk_full': 1}
DISK_LIMIT = 40_000  # bytes: above a log file, below a network file
PATIENCE = 120  # seconds for anything
ENDLESS = 10**6  # iterations


class CampaignError(Exception):
    """A round did not end as it should."""


class Campaign:
    """One training in a folder, and what is done to it."""

    def __init__(self, folder: Path, seed: int, literal: int) -> None:
        self.random = random.Random(seed)
        self.folder = folder
        self.literal = literal  # rounds that start the command itself instead of a copy of this process
        self.output = folder / 'output.txt'
        self.root = folder / 'experiments' / 'tiny'
        self.states = self.root / 'training_states'
        photographs = write_photographs(folder / 'photographs')
        self.options = options_to_train(photographs)
        del self.options['val'], self.options['datasets']['val'], self.options['train']['perceptual_opt']
        self.options['train']['ema_decay'] = 0.9
        self.options['network_g']['growth_channels'] = 16
        self.options['datasets']['train']['dataset_enlarge_ratio'] = 1000
        self.options['logger'].update(save_checkpoint_freq=2, keep_last=4, print_freq=1000)

    def newest(self) -> int:
        """Iteration of the newest state that is complete in itself and with its networks; 0 for none."""
        opt = {**self.options, 'rank': 1, 'path': {'models': str(self.root / 'models')}}
        state = newest_whole_state(opt, str(self.states))[1]
        return state['iter'] if state else 0

    def start(self, total_iter: int, file_size: int | None = None) -> int:
        """Start the training in another process and return its number."""
        options = {**self.options, 'train': {**self.options['train'], 'total_iter': total_iter}}
        arguments = ['-opt', str(write_yaml(options, self.folder / 'train.yml')), '--auto_resume']
        if self.literal > 0:
            with open(self.output, 'wb') as output:
                return subprocess.Popen(
                    [
                        sys.executable,
                        '-c',
                        'import irnsigma_plugin, runpy; runpy.run_module("basicsr.train", '
                        'run_name="__main__", alter_sys=True)',
                        *arguments,
                    ],
                    cwd=self.folder,
                    stdout=output,
                    stderr=output,
                    env={**os.environ, 'PYTHONPATH': str(REPO_ROOT)},
                ).pid
        child = os.fork()
        if child:
            return child
        self._become_training(arguments, file_size)

    def _become_training(self, arguments: list[str], file_size: int | None) -> None:
        status = 1
        try:
            output = os.open(self.output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(output, 1)
            os.dup2(output, 2)
            os.chdir(self.folder)
            sys.argv = ['train.py', *arguments]
            if file_size is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))
            train_pipeline(str(self.folder))
            status = 0
        except SystemExit as end:
            status = end.code
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def wait(self, process: int) -> int:
        """End status of a process, negative after a signal."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            ended, status = os.waitpid(process, os.WNOHANG)
            if ended:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.005)
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        raise CampaignError('the training does not end')

    def wait_for(self, process: int, happened) -> None:
        """Wait until something has happened, or the process has ended."""
        deadline = time.monotonic() + PATIENCE
        while not happened():
            if os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                raise CampaignError(f'the training ended too early, with status {self.wait(process)}')
            if time.monotonic() > deadline:
                os.kill(process, signal.SIGKILL)
                self.wait(process)
                raise CampaignError('the training does not go on')
            time.sleep(0.0005)

    def listed(self) -> int:
        """Iteration of the newest state by its name; a state has it only once all is written."""
        return next(iter(iterations(self.states)), 0)

    def is_saving(self) -> bool:
        """Whether a temporary file is there."""
        return any(
            TEMPORARY_NAME.match(name)
            for folder in (self.states, self.root / 'models')
            if folder.is_dir()
            for name in os.listdir(folder)
        )

    def strike(self, kind: str) -> int:
        """Let the training go on, interrupt it, and return the iteration that must not be lost."""
        before = self.listed()
        process = self.start(ENDLESS, DISK_LIMIT if kind == 'disk_full' else None)
        if kind != 'disk_full':
            self.wait_for(process, lambda: self.listed() > before)
            time.sleep(self.random.uniform(0, 0.3))
        if kind == 'kill_saving':
            self.wait_for(process, self.is_saving)
            time.sleep(self.random.uniform(0, 0.01))
        safe = self.listed()
        if kind in STATUS:
            if kind != 'disk_full':
                os.kill(process, signal.SIGTERM if kind == 'terminate' else signal.SIGINT)
            status = self.wait(process)
            if status != STATUS[kind]:
                raise CampaignError(f'the training ended with status {status} instead of {STATUS[kind]}')
            if kind == 'disk_full' and 'SaveError: Cannot save' not in self.output.read_text():
                raise CampaignError('the training did not say that it cannot save')
        else:
            os.kill(process, signal.SIGKILL)
            self.wait(process)
        if kind == 'corrupt':
            return self._corrupt()
        return safe

    def _corrupt(self) -> int:
        newest = self.states / f'{self.listed()}.state'
        content = newest.read_bytes()
        newest.write_bytes(
            self.random.choice(
                [b'', self.random.randbytes(len(content)), content[: self.random.randrange(len(content))]]
            )
        )
        return self.newest()

    def resume(self, safe: int) -> int:
        """Resume and finish; returns by how many iterations the training was thrown back behind `safe`."""
        newest = self.newest()
        status = self.wait(self.start(newest + 3))
        match = re.search(r'Resuming training from epoch: \d+, iter: (\d+)\.', self.output.read_text())
        resumed = int(match[1]) if match else 0
        if status != 0:
            raise CampaignError(f'the resumed training ended with status {status}')
        if resumed != newest:
            raise CampaignError(f'the training went on from iteration {resumed}, but {newest} is there')
        if any(TEMPORARY_NAME.match(path.name) for path in self.root.rglob('*')):
            raise CampaignError('temporary files are left')
        return max(0, safe - resumed)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--kills', type=int, default=100, help='rounds with kill -9 (default: 100)')
    parser.add_argument('--others', type=int, default=3, help='rounds of each other kind (default: 3)')
    parser.add_argument(
        '--literal',
        type=int,
        default=2,
        help='rounds that start `python` anew instead of copying this process (default: 2)',
    )
    parser.add_argument('--seed', type=int, default=0, help='of the random moments (default: 0)')
    args = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where a script runs this in the background

    rounds = ['kill' if index % 2 else 'kill_saving' for index in range(args.kills)]
    rounds += [kind for kind in OTHER_STRIKES for _ in range(args.others)]
    random.Random(args.seed).shuffle(rounds)
    rounds.sort(key=lambda kind: kind == 'disk_full')  # limits need something saved; and copies of this process
    figures: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        campaign = Campaign(Path(folder), args.seed, args.literal)
        for index, kind in enumerate(rounds):
            figures[kind] += 1
            try:
                lost = campaign.resume(campaign.strike(kind))
                figures['resumed'] += 1
                figures['lost checkpoints'] += lost > 0
                note = f'LOST {lost} iterations' if lost else 'resumed and finished'
            except CampaignError as fault:
                figures['faults'] += 1
                note = f'FAULT: {fault}\n{campaign.output.read_text()[-2000:]}'
            campaign.literal -= 1
            print(f'{index + 1:4d}/{len(rounds)} {kind:12s} iteration {campaign.listed():5d}: {note}', flush=True)
    struck = ', '.join(f'{figures[kind]} {kind}' for kind in ('kill', 'kill_saving', *OTHER_STRIKES))
    print(
        f'{len(rounds)} rounds ({struck}): {figures["resumed"]} resumed and finished, '
        f'{figures["lost checkpoints"]} lost checkpoints, {figures["faults"]} other faults'
    )
    return int(figures['resumed'] < len(rounds) or figures['lost checkpoints'] > 0)


if __name__ == '__main__':
    sys.exit(main())
