"""Which training state BasicSR goes on from."""

from __future__ import annotations

import os.path as osp
from typing import Any

from irnsigma_plugin.compat.recognise import uses_plugin


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

    from irnsigma_plugin.atomic import remove_leftovers
    from irnsigma_plugin.checkpoints.training_states import first_line, newest_whole_state, read_state

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
