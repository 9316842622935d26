import os

import pytest
import torch

from irnsigma_plugin import memory
from irnsigma_plugin.memory import available_memory, is_lack_of_memory

CPU = torch.device('cpu')


def test_this_machine_has_some_and_not_more_than_is_built_in():
    assert 0 < available_memory() <= os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')


STAT = 'file 990\nactive_file {}\ninactive_file {}\ntotal_active_file {}\ntotal_inactive_file {}\n'


@pytest.mark.parametrize(
    ('limit', 'prefix', 'stat', 'expected'),
    [
        ('3000\n', '', None, 2000),
        ('max\n', '', None, 10**9),
        ('500\n', '', None, 0),
        (None, '', None, 10**9),
        ('1000\n', '', STAT.format(300, 600, 1, 2), 900),  # what was read of files gives way
        ('1000\n', 'total_', STAT.format(1, 2, 300, 600), 900),
        ('1000\n', '', 'anon 7\n', 0),
    ],
)
def test_a_container_has_what_its_group_leaves(monkeypatch, tmp_path, limit, prefix, stat, expected):
    monkeypatch.setattr(memory, '_system_memory', lambda: 10**9)
    monkeypatch.setattr(memory, 'CGROUP_FILES', [(tmp_path / 'max', tmp_path / 'current', prefix)])
    for name, content in (('max', limit), ('current', limit and '1000\n'), ('memory.stat', stat)):
        if content:
            (tmp_path / name).write_text(content)
    assert available_memory() == expected


@pytest.mark.parametrize(
    ('error', 'expected'),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError('CUDA out of memory'), True),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
            True,
        ),
        (RuntimeError('allocated.png: damaged'), False),
        (ValueError("can't allocate memory.png: damaged"), False),
    ],
)
def test_lack_of_memory_is_told_from_other_errors(error, expected):
    assert is_lack_of_memory(error) == expected


def test_the_cpus_allocator_says_what_is_looked_for():
    with pytest.raises(RuntimeError) as error:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_lack_of_memory(error.value)
