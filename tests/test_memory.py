import os

import pytest
import torch

from irnsigma_plugin import memory
from irnsigma_plugin.memory import available_memory

CPU = torch.device('cpu')


def test_this_machine_has_some_and_not_more_than_is_built_in():
    assert 0 < available_memory(CPU) <= os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')


@pytest.mark.parametrize(('limit', 'expected'), [('3000\n', 2000), ('max\n', 10**9), ('500\n', 0), (None, 10**9)])
def test_a_container_has_what_its_group_leaves(monkeypatch, tmp_path, limit, expected):
    monkeypatch.setattr(memory, '_system_memory', lambda: 10**9)
    monkeypatch.setattr(memory, 'CGROUP_FILES', [(tmp_path / 'max', tmp_path / 'current')])
    if limit:
        (tmp_path / 'max').write_text(limit)
        (tmp_path / 'current').write_text('1000\n')
    assert available_memory(CPU) == expected
