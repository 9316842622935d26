"""A few rounds of tests/fault_campaign.py."""

from __future__ import annotations


def test_no_checkpoint_is_lost(run_cli, repo_root):
    out = run_cli(repo_root / 'tests' / 'fault_campaign.py', '--kills', '2', '--others', '1', '--literal', '0').stdout
    assert '6 rounds (1 kill, 1 kill_saving, 1 terminate, 1 interrupt, 1 disk_full, 1 corrupt)' in out
    assert '6 resumed and finished, 0 lost checkpoints, 0 other faults' in out
