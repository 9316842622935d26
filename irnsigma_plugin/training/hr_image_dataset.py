"""Training and validation on folders that hold only hr images."""

from __future__ import annotations

import os
import random
import weakref
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from basicsr.data.transforms import augment
from basicsr.utils import FileClient, img2tensor
from torch import Tensor
from torch.utils.data import Dataset

from irnsigma_plugin.archs.bicubic import bicubic_downscale, bicubic_downscale_crop
from irnsigma_plugin.checks import raise_faults
from irnsigma_plugin.images.picture import ImageReadError, decode_rgb_image
from irnsigma_plugin.options.keys import HR_ROOT, PATCHES, data_set_faults
from irnsigma_plugin.options.stored_images import StoreError, open_store, size_faults

# A process may open an LMDB only once, so datasets that read the same one share it.
_open_lmdbs: weakref.WeakValueDictionary[str, FileClient] = weakref.WeakValueDictionary()


class HRImageDataset(Dataset):
    """hr images; their bicubic lr is made when they are read.

    The lr has the values that `irnsigma prepare` stores: those of the whole image, cut to a multiple of the
    scale, shrunk bicubically and rounded to 8 bit. In training a random patch is cut out and augmented, and only its
    own lr is computed; in validation and testing the image is used whole.

    Args:
        opt: The data set in an option file, see :mod:`irnsigma_plugin.options.keys`, with the scale and the phase
            (train, val or test), which BasicSR puts in.

    Returns:
        Items as of BasicSR's PairedImageDataset: 'lq' (3, h, w) and 'gt' (3, scale·h, scale·w), float32 RGB
        in [0, 1]; 'lq_path' and 'gt_path', both the path of the hr image (or its key in the LMDB).

    Raises:
        ValueError: An option is unknown or missing, or has a wrong value.
        StoreError: The folder, the LMDB or the list does not exist, there are no images, or one is too small.
        ImageReadError: (when reading) An image is damaged or of an unsupported kind.
    """

    def __init__(self, opt: Mapping):
        opt = {**opt, 'type': 'HRImageDataset'}
        raise_faults('HRImageDataset', HRImageDataset.check(opt))
        self.opt, self.scale, self.is_training = opt, opt['scale'], opt['phase'] == 'train'
        self.root = os.path.expanduser(opt['dataroot_gt'])
        self.is_lmdb = opt['io_backend']['type'] == 'lmdb'
        self._client: FileClient | None = None  # opened when first used, in the process that uses it
        store = open_store(self.root, opt)
        if faults := list(size_faults(store, store.names, opt)):  # now rather than somewhere in the first epoch
            raise StoreError(f'{self.root}: {" ".join(faults)}')
        self.paths = sorted(store.names) if self.is_lmdb else [os.path.join(self.root, name) for name in store.names]

    @staticmethod
    def check(opt: Mapping[str, Any]) -> Iterator[str]:
        """What is wrong with the options, see :mod:`irnsigma_plugin.checks`."""
        yield from data_set_faults(
            opt,
            {**HR_ROOT, **PATCHES},
            hints={
                'filename_tmpl': 'there are no lr files; remove it',
                'dataroot_lq': 'the lr is made from the hr image; remove it, or use type: PairedImageDataset for a '
                'stored lr',
            },
        )

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Tensor | str]:
        path = self.paths[index]
        hr = decode_rgb_image(self._read(path), self._name(path))
        height, width = (side // self.scale * self.scale for side in hr.shape[:2])
        smallest = self.opt['gt_size'] if self.is_training else self.scale
        if min(height, width) < smallest:
            size = f'({height}x{width})'
            raise ImageReadError(f'{self._name(path)}: smaller than {smallest} in height or width {size}; remove it.')
        hr = hr[:height, :width]
        hr, lr = self._random_patch(hr) if self.is_training else (hr, bicubic_downscale(hr, self.scale))
        lr, hr = img2tensor([np.divide(image, 255, dtype=np.float32) for image in (lr, hr)], bgr2rgb=False)
        return {'lq': lr, 'gt': hr, 'lq_path': path, 'gt_path': path}

    def __getstate__(self) -> dict:
        return {**self.__dict__, '_client': None}  # an open LMDB cannot be sent to a worker; each opens its own

    def _random_patch(self, hr: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Cut out a patch aligned with the lr grid and augment it, with `random`, which BasicSR seeds."""
        scale, size = self.scale, self.opt['gt_size']
        top, left = (random.randint(0, (side - size) // scale) * scale for side in hr.shape[:2])
        lr = bicubic_downscale_crop(hr, scale, top, left, size)
        hr = np.ascontiguousarray(hr[top : top + size, left : left + size])
        return augment([hr, lr], self.opt.get('use_hflip') is not False, self.opt.get('use_rot') is not False)

    def _read(self, path: str) -> bytes:
        if self._client is None:
            self._client = _open_lmdb(os.path.realpath(self.root)) if self.is_lmdb else FileClient('disk')
        try:
            content = self._client.get(path, 'gt')
        except OSError as error:
            raise ImageReadError(f'{self._name(path)}: cannot be read ({error.strerror}).') from error
        if content is None:
            raise ImageReadError(f'{self._name(path)}: listed in meta_info.txt but not stored; prepare the LMDB again.')
        return content

    def _name(self, path: str) -> str:
        return f'{self.root}: image {path}' if self.is_lmdb else path


def _open_lmdb(path: str) -> FileClient:
    client = _open_lmdbs.get(path) or FileClient('lmdb', db_paths=path, client_keys='gt')
    return _open_lmdbs.setdefault(path, client)
