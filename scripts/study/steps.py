"""Runs the steps of a study one after the other; what is done stays done, whatever ends the process."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Callable, NamedTuple

from irnsigma_plugin.files import atomic_write, lock

TICK = 5.0  # seconds between looks at a command
PATIENCE = 30.0  # seconds that a killed process may take to vanish
QUIET = 60.0  # seconds between lines about it where nobody watches a terminal


class StudyError(RuntimeError):
    """The study cannot go on; the message says why and what to do."""


class Step(NamedTuple):
    """A piece of work: a command, run in the study's folder, or a function."""

    name: str
    kind: str  # the units of its work, which all take the same time
    work: int
    run: Sequence[str] | Callable[[], None]


class Journal:
    """Which steps are done and what they took, in `study.json`; nobody else may work in the folder meanwhile.

    Raises:
        StudyError: Somebody else does.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.file = folder, folder / 'study.json'
        self._said = 0.0
        (folder / 'logs').mkdir(parents=True, exist_ok=True)
        deadline = time.monotonic() + PATIENCE
        while (found := lock(folder / '.lock')) is None:
            if time.monotonic() > deadline:
                fault = 'another study, or a training that a killed one has left, works there'
                raise StudyError(f'{folder}: {fault}; wait for it or end it.')
            time.sleep(0.1)
        self._lock = found
        content = json.loads(self.file.read_text()) if self.file.exists() else {}
        self.done: list[str] = content.get('done', [])
        self.seconds: dict[str, float] = content.get('seconds', {})  # of all sittings

    def __enter__(self) -> Journal:
        self._handler = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
        return self

    def __exit__(self, *_: Any) -> None:
        signal.signal(signal.SIGTERM, self._handler)
        self._lock.close()

    def run(self, steps: Sequence[Step]) -> None:
        """Run all steps that are not done; a StudyError if a command fails."""
        for number, step in enumerate(steps, 1):
            title = f'[{number}/{len(steps)}] {step.name}'
            if step.name in self.done:
                self._say(f'{title}: done before')
                continue
            self._say(f'{title}: {step.work} {step.kind}')
            before, begun = self.seconds.get(step.name, 0), time.monotonic()
            for _ in self._ticks(step):
                self.seconds[step.name] = before + time.monotonic() - begun
                self._write()
                self._report(steps, step)
            self.done.append(step.name)
            self._write()

    def _write(self) -> None:
        atomic_write(self.file, json.dumps({'done': self.done, 'seconds': self.seconds}, indent=1).encode())

    def _ticks(self, step: Step) -> Iterator[None]:
        """Do a step; yield now and then, and at the end."""
        if callable(step.run):
            yield step.run()
            return
        log = self._log(step)
        with open(log, 'ab') as output:
            # The lock is handed down, for a kill of this process may leave the child behind.
            child = subprocess.Popen(
                step.run, cwd=self.folder, stdout=output, stderr=subprocess.STDOUT, pass_fds=[self._lock.fileno()]
            )
        try:
            while child.poll() is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(TICK)
                yield
        finally:
            if child.poll() is None:  # interrupted: a training saves its state
                child.terminate()
                child.wait()
        if child.returncode:
            end = ''.join(f'\n  {line}' for line in log.read_text(errors='replace').splitlines()[-20:])
            raise StudyError(f'{step.name} ended with status {child.returncode}. The last lines of {log}:{end}')

    def _log(self, step: Step) -> Path:
        return self.folder / 'logs' / (re.sub(r'[^\w.+-]+', '_', step.name) + '.log')

    def _report(self, steps: Sequence[Step], step: Step) -> None:
        """Say how far the step is, and how long everything will take."""
        if time.monotonic() - self._said < (TICK / 2 if sys.stdout.isatty() else QUIET) or callable(step.run):
            return
        counts = re.findall(r'iter: *([\d,]+)', self._log(step).read_bytes()[-4000:].decode(errors='replace'))
        reached = int(counts[-1].replace(',', '')) if counts else 0
        pace = {each.kind: self.seconds[each.name] / each.work for each in steps if each.name in self.done}
        if reached:
            pace[step.kind] = self.seconds[step.name] / reached
        waiting = [each for each in steps if each.name not in self.done]
        unknown = sum(each.kind not in pace for each in waiting)
        least = 'at least ' if unknown else ''
        left = sum(pace.get(each.kind, 0) * each.work for each in waiting) - pace.get(step.kind, 0) * reached
        hours, minutes = divmod(round(left / 60), 60)
        far = f'{reached} of {step.work} iterations' if reached else f'{self.seconds[step.name]:.0f} s'
        rest = f'; {least}{hours} h {minutes} min left of all' if unknown < len(waiting) else ''
        self._say(f'    {far}{rest}', passing=True)

    def _say(self, line: str, passing: bool = False) -> None:
        """Print a line; on a terminal the next one overwrites one that is passing."""
        self._said = time.monotonic()
        on_terminal = sys.stdout.isatty()
        print(f'\r\033[K{line}' if on_terminal else line, end='' if passing and on_terminal else '\n', flush=True)
