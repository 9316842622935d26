"""Training and validation on folders that hold only hr images."""

from __future__ import annotations

import os
import random
import re
import weakref
from collections.abc import Iterator, Mapping

import numpy as np
from basicsr.data.data_util import paths_from_lmdb
from basicsr.data.transforms import augment
from basicsr.utils import FileClient, img2tensor
from basicsr.utils.registry import DATASET_REGISTRY
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from irnsigma_plugin.bicubic import bicubic_downscale, bicubic_downscale_crop
from irnsigma_plugin.data.image_io import IMAGE_EXTENSIONS, ImageReadError, decode_rgb_image, is_image_name
from irnsigma_plugin.option_blocks import data_set
from irnsigma_plugin.options import refuse

# A process may open an LMDB only once, so datasets that read the same one share it.
_open_lmdbs: weakref.WeakValueDictionary[str, FileClient] = weakref.WeakValueDictionary()


@DATASET_REGISTRY.register()
class HRImageDataset(Dataset):
    """hr images; their bicubic lr is made when they are read.

    The lr has the values that `scripts/prepare_data.py` stores: those of the whole image, cut to a multiple
    of the scale, shrunk bicubically and rounded to 8 bit. In training a random patch is cut out and
    augmented, and only its own lr is computed; in validation and testing the image is used whole.

    Images are found in one of three ways:
        1. `io_backend: {type: lmdb}`: the LMDB `dataroot_gt`, by its meta_info.txt.
        2. `meta_info_file`: the files of the folder `dataroot_gt` that begin a line of that file.
        3. Otherwise: all image files in the folder `dataroot_gt` (not in its subfolders), sorted by name.

    Args:
        opt: Options of the dataset in an option file:
            dataroot_gt (str): Folder or LMDB of the hr images.
            io_backend (dict): `{type: disk}` or `{type: lmdb}`.
            meta_info_file (str): List of file names, one per line, a size may follow. Default: none.
            gt_size (int): Side of the hr patch in training, a multiple of the scale.
            use_hflip (bool): Mirror half of the patches in training. Default: true.
            use_rot (bool): Flip and transpose half of the patches each in training. Default: true.
            scale (int): Factor between hr and lr. BasicSR copies it from the top of the option file.
            phase (str): 'train', 'val' or 'test'. Set by BasicSR.

    Returns:
        Items as of BasicSR's PairedImageDataset: 'lq' (3, h, w) and 'gt' (3, scale·h, scale·w), float32 RGB
        in [0, 1]; 'lq_path' and 'gt_path', both the path of the hr image (or its key in the LMDB).

    Raises:
        ValueError: An option is unknown or has a wrong value, there are no images, or one is too small.
        FileNotFoundError: The folder, the LMDB or the list does not exist.
        ImageReadError: (when reading) An image is damaged or of an unsupported kind.
    """

    def __init__(self, opt: Mapping):
        refuse(data_set('HRImageDataset', {**opt, 'type': 'HRImageDataset'}))
        self.opt = opt
        self.scale = opt['scale']
        self.is_training = opt['phase'] == 'train'
        self.root = os.path.expanduser(opt['dataroot_gt'])
        self.is_lmdb = opt['io_backend']['type'] == 'lmdb'
        # Opened when first used, in the process that uses it.
        self._client: FileClient | None = None
        if self.is_training:
            self.patch_size = opt['gt_size']
        self.paths = self._find_images()
        if not self.paths:
            raise ValueError(self._explain_no_images())
        self._check_image_sizes()

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Tensor | str]:
        path = self.paths[index]
        hr = decode_rgb_image(self._read(path), self._name(path))
        height, width = (side // self.scale * self.scale for side in hr.shape[:2])
        if min(height, width) < self._smallest_side:
            raise ValueError(self._explain_too_small([(path, hr.shape[:2])]))
        hr = hr[:height, :width]
        if self.is_training:
            hr, lr = self._random_patch(hr)
        else:
            lr = bicubic_downscale(hr, self.scale)
        lr, hr = img2tensor([np.divide(image, 255, dtype=np.float32) for image in (lr, hr)], bgr2rgb=False)
        return {'lq': lr, 'gt': hr, 'lq_path': path, 'gt_path': path}

    def __getstate__(self) -> dict:
        # An open LMDB cannot be sent to a worker; each opens its own.
        return {**self.__dict__, '_client': None}

    def _random_patch(self, hr: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Cut out a patch aligned with the lr grid and augment it, with `random`, which BasicSR seeds."""
        scale, size = self.scale, self.patch_size
        top, left = (random.randint(0, (side - size) // scale) * scale for side in hr.shape[:2])
        lr = bicubic_downscale_crop(hr, scale, top, left, size)
        hr = np.ascontiguousarray(hr[top:top + size, left:left + size])
        return augment([hr, lr], self.opt.get('use_hflip', True), self.opt.get('use_rot', True))

    def _read(self, path: str) -> bytes:
        if self._client is None:
            self._client = _open_lmdb(self.root) if self.is_lmdb else FileClient('disk')
        try:
            content = self._client.get(path, 'gt')
        except OSError as error:
            raise ImageReadError(f'{self._name(path)}: cannot be read ({error.strerror}).') from error
        if content is None:
            raise ImageReadError(f'{self._name(path)}: listed in meta_info.txt but not stored; '
                                 'prepare the LMDB again.')
        return content

    def _name(self, path: str) -> str:
        return f'{self.root}: image {path}' if self.is_lmdb else path

    def _find_images(self) -> list[str]:
        listing = self.opt.get('meta_info_file')
        if self.is_lmdb:
            if not self.root.endswith('.lmdb'):
                raise ValueError(f"dataroot_gt {self.root} must end with '.lmdb' for io_backend type lmdb; "
                                 'use type disk for a folder of images.')
            if listing is not None:
                raise ValueError('meta_info_file is for io_backend type disk; remove it: an LMDB has its own '
                                 'meta_info.txt.')
            if not os.path.isfile(os.path.join(self.root, 'meta_info.txt')):
                raise FileNotFoundError(f'dataroot_gt: {self.root} has no meta_info.txt; give an LMDB made '
                                        'by scripts/prepare_data.py, or use io_backend type disk.')
            return sorted(paths_from_lmdb(self.root))
        if not os.path.isdir(self.root):
            raise FileNotFoundError(f'dataroot_gt: the folder {self.root} does not exist (relative paths '
                                    f'start at {os.getcwd()}).')
        if listing is None:
            names = sorted(entry.name for entry in os.scandir(self.root)
                           if entry.is_file() and is_image_name(entry.name))
        else:
            listing = os.path.expanduser(listing)
            if not os.path.isfile(listing):
                raise FileNotFoundError(f'meta_info_file: {listing} does not exist; correct the path or '
                                        'leave the option out to use all images of the folder.')
            with open(listing, encoding='utf-8') as file:
                names = [re.sub(r' \(.*', '', line).strip() for line in file if line.strip()]
        return [os.path.join(self.root, name) for name in names]

    def _explain_no_images(self) -> str:
        if self.opt.get('meta_info_file') is not None:
            return f'meta_info_file {self.opt["meta_info_file"]} lists no images.'
        if self.is_lmdb:
            return f'dataroot_gt: the LMDB {self.root} lists no images; prepare it again.'
        inside = sorted(entry.name for entry in os.scandir(self.root) if entry.is_dir())
        hint = f' Its subfolders are not searched: {", ".join(inside[:5])}.' if inside else ''
        return f'dataroot_gt: no images in the folder {self.root} ({", ".join(IMAGE_EXTENSIONS)}).{hint}'

    def _check_image_sizes(self) -> None:
        """Find too small images now rather than somewhere in the first epoch."""
        too_small = [(path, size) for path, size in self._sizes() if min(size) < self._smallest_side]
        if too_small:
            raise ValueError(self._explain_too_small(too_small))

    @property
    def _smallest_side(self) -> int:
        return self.patch_size if self.is_training else self.scale

    def _explain_too_small(self, images: list[tuple[str, tuple[int, int]]]) -> str:
        named = ', '.join(f'{os.path.basename(path)} ({height}x{width})'
                          for path, (height, width) in images[:3])
        more = f' and {len(images) - 3} more' if len(images) > 3 else ''
        what = 'gt_size' if self.is_training else 'the scale'
        remedy = f'remove them or lower {what}' if self.is_training else 'remove them'
        return (f'{self.root}: images smaller than {what} {self._smallest_side} in height or width: '
                f'{named}{more}; {remedy}.')

    def _sizes(self) -> Iterator[tuple[str, tuple[int, int]]]:
        """Paths with heights and widths, from the files' headers or the LMDB's meta_info.txt."""
        if self.is_lmdb:
            with open(os.path.join(self.root, 'meta_info.txt'), encoding='utf-8') as file:
                for line in file:
                    if match := re.match(r'([^.]*)\..* \((\d+),(\d+),', line):
                        yield match[1], (int(match[2]), int(match[3]))
            return
        for path in self.paths:
            try:
                with Image.open(path) as image:
                    yield path, (image.height, image.width)
            except OSError as error:
                raise ImageReadError(f'{path}: missing or not an image ({error}); remove it.') from error


def _open_lmdb(path: str) -> FileClient:
    path = os.path.realpath(path)
    client = _open_lmdbs.get(path)
    if client is None:
        client = _open_lmdbs[path] = FileClient('lmdb', db_paths=path, client_keys='gt')
    return client
