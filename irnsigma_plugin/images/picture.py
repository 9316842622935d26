"""Reading image files of any common kind, and writing PNG, JPEG, WebP and AVIF files.

What belongs to the pixels travels with them: transparency, colour profile, camera data, and one text that the writer
may choose. Damaged data beside the pixels costs a warning; damaged pixels cost the image.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import stat
import struct
import threading
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from irnsigma_plugin.files import atomic_path
from irnsigma_plugin.images import lossy, png
from irnsigma_plugin.images.names import DEFAULT_QUALITY, IMAGE_EXTENSIONS
from irnsigma_plugin.memory import available_memory, is_lack_of_memory

ISO_FORMATS = ('HEIF', 'AVIF')
FORMATS = ('PNG', 'JPEG', 'BMP', 'TIFF', 'WEBP', 'PPM', 'GIF', 'AVIF')
HEIF_BRANDS, AVIF_BRANDS = {b'heic', b'heix', b'heim', b'heis', b'hevc', b'hevx', b'mif1', b'msf1'}, {b'avif', b'avis'}
AV1_FLAGS = re.compile(rb'av1C\x81.(.)', re.DOTALL)  # of each image in an AVIF file: 64 over 8 bits, 32 12, 16 grey
NUMBERED_COLOURS = re.compile(rb'colrnclx(..)(..)', re.DOTALL)  # in HEIC and AVIF: primaries and transfer function
SRGB_COLOURS = ((1, 2, 5, 6), (1, 2, 6, 13, 14, 15))  # those numbers, as far as the eye can tell
# In PNG, with their bytes; the latter of sRGB: the exponent, and the white, red, green and blue, each times 100000.
COLOUR_CHUNKS = {b'cICP': 4, b'sRGB': 1, b'gAMA': 4, b'cHRM': 32}
SRGB_CHUNKS = {b'gAMA': (45455,), b'cHRM': (31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)}
SIDE_CHUNKS = {*COLOUR_CHUNKS, b'pHYs', b'tIME', b'bKGD', b'sBIT'}  # what can be damaged without harm to the pixels
TEXT_KEYWORD = b'irnsigma'

# Pillow's modes.
GREY_MODES = ('1', 'L', 'LA', 'La')
COLOUR_MODES = ('P', 'PA', 'RGB', 'RGBA', 'RGBa', 'RGBX', 'YCbCr')
ALPHA_MODES = ('LA', 'La', 'PA', 'RGBA', 'RGBa')
NO_INTEGER_MODES = ('CMYK', 'LAB', 'F')
TIFF_EXIF_TAGS = {0x8769, 0x8825}  # directories of camera data, and of places
WIDTH_TAG, HEIGHT_TAG, BITS_PER_SAMPLE_TAG, ORIENTATION_TAG = 256, 257, 258, 274
PLANES_TAG, SAMPLE_FORMAT_TAG = 284, 339
WHITE_IS_ZERO, RGB, PLANES, UNSIGNED, SIGNED, OPACITY, LZW = 0, 2, 2, 1, 2, 2, 5  # values of a TIFF file's tags
TIFFFILE_COMPRESSIONS = (1, 8, 32773, 32946)  # none, deflate, PackBits; all others need imagecodecs
EXIF_PREFIX = b'Exif\0\0'  # of camera data in JPEG and WebP, not in PNG
MAX_UNPACKED_BYTES = 1 << 24
COPIES = 4  # of the pixels, that a decoder may hold at the same time

# Kind of chunk of a PNG file: attribute of Picture, what to call it.
METADATA = {
    b'iCCP': ('icc', 'its colour profile (ICC)'),
    b'eXIf': ('exif', 'its camera data (EXIF)'),
    **dict.fromkeys((b'tEXt', b'zTXt', b'iTXt'), ('text', 'a text in it')),
}

_limit_lock = threading.Lock()
_limit_stack: list[int | None] = []


class ImageReadError(ValueError):
    """An image cannot be used; the message names it, the reason and the remedy."""


class Picture(NamedTuple):
    """An image and what belongs to it."""

    pixels: np.ndarray  # (H, W) grey or (H, W, 3) RGB, uint8 or uint16, the right way up
    alpha: np.ndarray | None = None  # (H, W) opacity of the same type
    icc: bytes | None = None  # colour profile
    exif: bytes | None = None  # camera data (a TIFF structure) that does not ask for a turn
    text: str | None = None  # under this plugin's keyword in a PNG file, in XMP data of any other
    warnings: tuple[str, ...] = ()  # what of the file was damaged or cannot be kept and is left out, a phrase each

    @property
    def bits(self) -> int:
        """Bits per sample, 8 or 16."""
        return 8 * self.pixels.dtype.itemsize


def read_picture(path: str | os.PathLike) -> Picture:
    """Read an image file; raises ImageReadError if it is no readable one, or :func:`decode_picture` refuses it."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would wait for its writer
            raise ImageReadError(f'{path}: is no file (but a folder, a pipe or a device); name an image file.')
        with open(path, 'rb') as file:
            content = file.read()
    except OSError as error:
        raise ImageReadError(f'{path}: cannot be read ({error.strerror}); check the path and the rights.') from error
    return decode_picture(content, os.fspath(path))


def decode_picture(content: bytes, name: str, most_pixels: int | None = None) -> Picture:
    """Decode an image file completely, the right way up.

    8 and 16 bits per sample stay; fewer become 8, 10 and 12 of HEIC and AVIF 16; palettes become RGB; a JPEG with
    further images inside (MPO, of cameras) gives its first. What would lose data or needs a choice is refused:
    animations, several pages, CMYK, floating point. So are truncated files, and images too large for the memory.

    Args:
        content: Bytes of a PNG, JPEG, BMP, TIFF, WebP, PPM, GIF, AVIF or (with pillow-heif installed) HEIC file.
        name: What to call the image in error messages.
        most_pixels: Larger images are refused before they are decoded.

    Raises:
        ImageReadError: The image is damaged, too large or of a kind that is refused.
        MemoryError: There is too little memory after all.
    """
    if not content:
        raise ImageReadError(f'{name}: the file is empty; copy it again or remove it.')
    metadata: dict[str, Any] = {}
    warnings: list[str] = []
    is_png = content.startswith(png.SIGNATURE)
    if is_png:
        content = _split_png(content, name, metadata, warnings)
    try:
        # Pillow, not OpenCV, because it refuses truncated files instead of filling them up.
        with _no_pixel_limit(), _open(io.BytesIO(content), name, FORMATS) as image:
            check_size(*image.size, most_pixels, name)
            bits = _supported_bits(image, content, name)
            check_memory(*image.size, COPIES * len(image.getbands()) * -(-bits // 8), name)
            metadata.setdefault('icc', image.info.get('icc_profile'))
            if TIFF_EXIF_TAGS & set(getattr(image, 'tag_v2', ())):
                warnings.append('its camera data (EXIF) cannot be kept, as of any TIFF file')
            # The camera data of a TIFF file is the file's own directory; it would not fit another file.
            metadata.setdefault('exif', None if image.format == 'TIFF' else image.info.get('exif'))
            metadata.setdefault('text', lossy.read_text(image.info.get('xmp')))
            if image.format in ISO_FORMATS and not metadata['icc']:
                match = NUMBERED_COLOURS.search(content)
                warnings += _numbered_colours(match.groups() if match else ())
            samples = _decode_16_bit(content, image, name) if bits > 8 else _decode_8_bit(content, image)
            if 8 < bits < 16:  # their range becomes that of 16
                largest = (1 << bits) - 1
                samples = ((samples.astype(np.uint32) * 65535 + largest // 2) // largest).astype(np.uint16)
    except (ImageReadError, MemoryError):
        raise
    except Exception as error:  # decoders of damaged files raise whatever they stumble over
        if is_lack_of_memory(error):
            raise MemoryError(f'{name}: there is not enough memory to decode it.') from error
        kinds = ', '.join(IMAGE_EXTENSIONS)
        fault = f'damaged, or not a supported image ({error}); copy it again or remove it. Supported: {kinds}.'
        if isinstance(error, UnidentifiedImageError):  # all that it says is the address of the content
            remedy = 'save it as PNG of 8 or 16 bits per sample'
            fault = f'is no image of a supported kind ({kinds}), unless its beginning is damaged; {remedy}.'
            if is_png:
                fault = 'damaged at its beginning; copy it again or remove it.'
        raise ImageReadError(f'{name}: {fault}') from error
    try:
        orientation, metadata['exif'] = _split_orientation(metadata['exif'])
    except struct.error:
        orientation, metadata['exif'] = 1, None
        warnings.append('its camera data (EXIF) is damaged')
    samples = _upright(samples, orientation)
    channels = samples.shape[2]
    alpha = np.ascontiguousarray(samples[..., -1]) if channels in (2, 4) else None
    pixels = np.ascontiguousarray(samples[..., 0] if channels < 3 else samples[..., :3])
    return Picture(pixels, alpha, warnings=tuple(warnings), **metadata)


def read_text(path: str | os.PathLike) -> str | None:
    """`text` of a file that :func:`write_picture` wrote, from its beginning; None where none can be read."""
    try:
        with _no_pixel_limit(), Image.open(path, formats=FORMATS) as image:
            return image.info.get(TEXT_KEYWORD.decode()) or lossy.read_text(image.info.get('xmp'))
    except Exception:  # as of any damaged file
        return None


def read_size(path: str | os.PathLike) -> tuple[int, int]:
    """Height and width of an image file, the right way up, from its header; ImageReadError where there is none."""
    try:
        with _no_pixel_limit(), open(path, 'rb') as file, _open(file, os.fspath(path), None) as image:
            tags = getattr(image, 'tag_v2', {})  # of a TIFF file, which Pillow may have turned already
            orientation = tags.get(ORIENTATION_TAG) or _split_orientation(image.info.get('exif'))[0]
            size = (tags.get(HEIGHT_TAG, image.height), tags.get(WIDTH_TAG, image.width))
            return size[::-1] if 5 <= orientation <= 8 else size
    except ImageReadError:
        raise
    except Exception as error:  # as of any damaged file
        raise ImageReadError(f'{path}: missing or not an image; copy it again or remove it.') from error


def fitted(picture: Picture, path: str | os.PathLike) -> Picture:
    """A picture as a file of that name can hold it, else a ValueError; what is left out costs a warning."""
    kind, alpha, exif = lossy.KINDS.get(Path(path).suffix.lower()), picture.alpha, picture.exif
    if kind is None:
        return picture
    Image.init()
    faults = {
        'anything by the installed Pillow, which does not write it': kind not in Image.SAVE,
        '16 bits per sample': picture.bits == 16,
        'transparency': kind == 'JPEG' and alpha is not None and alpha.min() < 255,
        f'sides of more than {lossy.LONGEST[kind]} pixels': max(picture.pixels.shape) > lossy.LONGEST[kind],
    }
    fault = next((what for what, is_there in faults.items() if is_there), None)
    if fault:
        raise ValueError(f'a {kind} file cannot hold {fault}; make it a PNG file.')
    if kind == 'JPEG' and len(exif or b'') > lossy.MOST_EXIF:
        left_out = 'its camera data (EXIF) are too long for a JPEG file'
        picture = picture._replace(exif=None, warnings=(*picture.warnings, left_out))
    if kind == 'WEBP' and picture.pixels.ndim == 2 and (picture.icc or b'')[16:20] == b'GRAY':
        left_out = 'its colour profile (ICC) is of grey, which WebP has not'
        picture = picture._replace(icc=None, warnings=(*picture.warnings, left_out))
    return picture._replace(alpha=None) if kind == 'JPEG' else picture


def write_picture(picture: Picture, path: str | os.PathLike, quality: int = DEFAULT_QUALITY) -> None:
    """Write a file, completely or not at all; raises WriteError if that is impossible.

    It is a JPEG, WebP or AVIF file of a :func:`fitted` picture and that quality, 1 to 100, if `path` ends so, else PNG.
    """
    kind = lossy.KINDS.get(Path(path).suffix.lower())
    chunks = b''
    if picture.icc:
        chunks += png.make_chunk(b'iCCP', b'ICC profile\0\0' + zlib.compress(picture.icc))
    if picture.exif:
        chunks += png.make_chunk(b'eXIf', picture.exif)
    if picture.text:
        chunks += png.make_chunk(b'tEXt', TEXT_KEYWORD + b'\0' + picture.text.encode('latin-1'))
    pixels, alpha = picture.pixels, picture.alpha
    samples = np.atleast_3d(pixels) if alpha is None else np.dstack((pixels, alpha))
    with atomic_path(path) as temporary, open(temporary, 'wb') as file:
        if kind is None:
            png.write_png(file, samples, chunks)
        else:
            exif = picture.exif and EXIF_PREFIX + picture.exif
            lossy.write(file, samples, kind, quality, picture.text, icc_profile=picture.icc, exif=exif)


def read_rgb_image(path: str | os.PathLike) -> np.ndarray:
    """Read an image file as (H, W, 3) uint8 RGB.

    Grey images and palettes become three channels; 16 bits per sample become 8 by rounding v / 257; an alpha channel
    that is opaque everywhere is dropped. Raises ImageReadError where `read_picture` does, and for transparent pixels.
    """
    return _to_rgb(read_picture(path), os.fspath(path))


def decode_rgb_image(content: bytes, name: str) -> np.ndarray:
    """Decode the bytes of an image file, called `name` in errors, as 8-bit RGB; see :func:`read_rgb_image`."""
    return _to_rgb(decode_picture(content, name), name)


def _to_rgb(picture: Picture, name: str) -> np.ndarray:
    if picture.alpha is not None and (picture.alpha != np.iinfo(picture.alpha.dtype).max).any():
        remedy = 'put it on a background and save it without alpha channel'
        raise ImageReadError(f'{name}: has transparent pixels, whose colour is undefined; {remedy}.')
    pixels = to_8_bit(picture.pixels)
    return np.stack([pixels] * 3, -1) if pixels.ndim == 2 else pixels


def to_8_bit(samples: np.ndarray) -> np.ndarray:
    """Samples of 16 bits with 8, by rounding v / 257; those of 8 bits as they are."""
    return samples if samples.dtype == np.uint8 else ((samples.astype(np.uint32) + 128) // 257).astype(np.uint8)


def check_size(width: int, height: int, most_pixels: int | None, name: str) -> None:
    """Raise ImageReadError for an image, called `name`, of more pixels than are taken."""
    if most_pixels is not None and width * height > most_pixels:
        limit = f'more than the {most_pixels / 1e6:g} megapixels that are taken here'
        raise ImageReadError(f'{name}: {width}x{height} pixels are {limit}; cut out a part of it, or reduce it.')


def check_memory(width: int, height: int, pixel_bytes: int, name: str) -> None:
    """Raise ImageReadError for an image, called `name`, that does not fit into the free memory, before it is taken."""
    size, available = width * height * pixel_bytes, available_memory()
    if size > available:
        need = f'about {size / 1e9:.1f} GB of memory, but {available / 1e9:.1f} GB are free'
        remedy = 'cut the image into parts, or free some memory'
        raise ImageReadError(f'{name}: {width}x{height} pixels need {need}; {remedy}.')


def _unpack(chunk: png.Chunk) -> bytes | str | None:
    """What a chunk of `METADATA` holds, but no text of another keyword; raises ValueError or zlib.error on damage."""
    if not chunk.intact:
        raise ValueError('wrong checksum')
    if chunk.kind == b'eXIf':
        return chunk.body
    keyword, _, rest = chunk.body.partition(b'\0')
    if chunk.kind == b'iCCP':
        return _inflate(rest[1:])  # behind the number of the method
    if keyword != TEXT_KEYWORD:
        return None
    if chunk.kind == b'tEXt':  # as this module writes it; other programs that save the file may compress it
        return rest.decode('latin-1')
    if chunk.kind == b'zTXt':
        return _inflate(rest[1:]).decode('latin-1')
    text = rest[2:].partition(b'\0')[2].partition(b'\0')[2]  # behind a language and a translated keyword
    return (_inflate(text) if rest[:1] == b'\1' else text).decode()


def _inflate(data: bytes) -> bytes:
    unpacker = zlib.decompressobj()
    content = unpacker.decompress(data, MAX_UNPACKED_BYTES)
    if not unpacker.eof:
        raise ValueError('incomplete or too long')
    return content


def _split_png(content: bytes, name: str, metadata: dict[str, Any], warnings: list[str]) -> bytes:
    """Return what a PNG file needs for its pixels; move the rest, damage to which does no harm, to `metadata`."""
    pixel_chunks, colours = [png.SIGNATURE], {}
    for chunk in png.read_chunks(content):
        if chunk.kind == b'acTL':
            _check_single(int.from_bytes(chunk.body[:4], 'big'), name)
        if chunk.kind in METADATA:
            attribute, what = METADATA[chunk.kind]
            try:
                metadata[attribute] = _unpack(chunk) or metadata.get(attribute)
            except (ValueError, zlib.error):
                warnings.append(f'{what} is damaged')
        elif not chunk.intact and chunk.kind in SIDE_CHUNKS:
            warnings.append(f'its {chunk.kind.decode()} is damaged')
        elif chunk.kind[:1].isupper() or chunk.kind == b'tRNS' or not chunk.intact:
            pixel_chunks.append(chunk.raw)
        elif len(chunk.body) == COLOUR_CHUNKS.get(chunk.kind):
            colours[chunk.kind] = chunk.body
    if not metadata.get('icc'):
        warnings += _colours_of_chunks(colours)
    return b''.join(pixel_chunks)


@contextlib.contextmanager
def _no_pixel_limit() -> Iterator[None]:
    """Lift Pillow's limit of pixels (the memory is checked instead) for all threads, until the last has left."""
    with _limit_lock:
        _limit_stack.append(Image.MAX_IMAGE_PIXELS)
        Image.MAX_IMAGE_PIXELS = None
    try:
        yield
    finally:
        with _limit_lock:
            limit = _limit_stack.pop()  # the first to enter has found the limit, and the others none
            if not _limit_stack:
                Image.MAX_IMAGE_PIXELS = limit


def _open(file: BinaryIO, name: str, formats: tuple[str, ...] | None) -> Image.Image:
    """Open an image file, called `name`, of Pillow's `formats`, or a HEIC file; its header alone is read."""
    start = file.read(64)
    file.seek(0)
    brands = {start[i : i + 4] for i in range(8, min(int.from_bytes(start[:4], 'big'), 64), 4)}
    if start[4:8] == b'ftyp' and brands & HEIF_BRANDS and not brands & AVIF_BRANDS:
        try:
            from pillow_heif import HeifImageFile  # by itself, so that Pillow stays as it is for everybody else
        except ImportError as error:
            remedy = 'pip install irnsigma_plugin[heif], or save it as PNG or JPEG'
            raise ImageReadError(f'{name}: a HEIC file needs the package pillow-heif: {remedy}.') from error
        return HeifImageFile(file)
    return Image.open(file, formats=formats)


def _supported_bits(image: Image.Image, content: bytes, name: str) -> int:
    """Bits per sample of an image that has just been opened, if it is of a kind that is not refused."""
    bits, tags = 8, getattr(image, 'tag_v2', {})  # of a TIFF file
    if image.format == 'PNG':
        bits = content[24]  # the bit depth in the header, which always stands first
    elif image.format == 'TIFF':
        bits = max(tags.get(BITS_PER_SAMPLE_TAG, (1,)))
    elif image.format == 'PPM':  # the last number of the header is the largest value
        header = re.match(rb'P[2356]' + rb'(?:\s|#[^\n]*\n)+(\d+)' * 3, content)
        largest = int(header[3]) if header else 1
        if largest > 255 and largest != 65535:
            raise ImageReadError(f'{name}: its largest value is {largest}, which is not supported; save it as PNG.')
        bits = 16 if largest > 255 else 8
    elif image.format == 'HEIF':
        _check_whole(content)
        bits = image.info['bit_depth']
    elif image.format == 'AVIF':
        bits = max([8, *((8, 8, 10, 12)[flags[0] >> 5 & 3] for flags in AV1_FLAGS.findall(content))])
    if image.format != 'MPO':
        _check_single(getattr(image, 'n_frames', 1), name)
    signed = SIGNED in tags.get(SAMPLE_FORMAT_TAG, ())
    planes = tags.get(PLANES_TAG) == PLANES and image.mode in ('LA', 'La')  # which Pillow mixes up
    whole = bits in (1, 2, 4, 8) and image.mode in GREY_MODES + COLOUR_MODES and not (signed or planes)
    deep = bits == 16 or bits > 8 and image.format in ISO_FORMATS
    if not whole and (not deep or image.mode in (*NO_INTEGER_MODES, 'RGBa')):
        kind = f'pixels of type {image.mode} with {bits} bits per sample{", signed" * signed}{", in planes" * planes}'
        remedy = 'convert the image to RGB or grey with 8 or 16 bits per sample'
        raise ImageReadError(f'{name}: {kind} are not supported; {remedy}.')
    return bits


def _check_single(count: int, name: str) -> None:
    if count > 1:
        fault = f'has {count} frames or pages, of which only one could be kept'
        raise ImageReadError(f'{name}: {fault}; save each as an image file of its own.')


def _check_whole(content: bytes) -> None:
    """Raise an EOFError for a truncated HEIC file, as its decoder leaves out tiles that are missing."""
    start = 0
    while box := content[start : start + 16]:
        size = int.from_bytes(box[8:] if box[:4] == b'\0\0\0\1' else box[:4], 'big')
        if box[4:8] == b'mdat' and start + size > len(content):
            raise EOFError('truncated')
        start += size or len(content)  # none: to the end


def _numbered_colours(fields: Iterable[bytes]) -> Iterator[str]:
    """What is lost with the colours of a file that has these numbers for them, if any, but no profile."""
    numbers = [int.from_bytes(field, 'big') for field in fields]
    if any(number not in known for number, known in zip(numbers, SRGB_COLOURS)):
        yield 'its colours (primaries {}, transfer function {}) are no sRGB, but have no profile'.format(*numbers)


def _colours_of_chunks(colours: dict[bytes, bytes]) -> Iterator[str]:
    """The same of a PNG file that has these of :data:`COLOUR_CHUNKS`."""
    if number := colours.get(b'cICP'):
        yield from _numbered_colours((number[:1], number[1:2]))
    elif b'sRGB' not in colours:
        for kind, srgb in SRGB_CHUNKS.items():
            own = struct.unpack(f'>{len(srgb)}I', colours[kind]) if kind in colours else srgb
            if any(abs(a - b) > 2000 for a, b in zip(own, srgb)):
                values = ', '.join(f'{value / 100000:g}' for value in own)
                yield f'its colours ({kind.decode()} {values}) are no sRGB, but have no profile'


def _decode_8_bit(content: bytes, image: Image.Image) -> np.ndarray:
    """(H, W, C) uint8 of a loaded image; C as for :func:`~irnsigma_plugin.images.png.write_png`."""
    image.load()
    if image.format == 'PNG' and image.mode == 'L' and 0 < image.info.get('transparency', 0) < 1 << content[24] < 256:
        image.info['transparency'] *= 255 // ((1 << content[24]) - 1)  # as Pillow has done with the samples
    alpha = image.mode in ALPHA_MODES or 'transparency' in image.info
    if image.format == 'TIFF':
        image = ImageOps.exif_transpose(image)
    is_grey_avif = image.format == 'AVIF' and all(flags[0] & 16 for flags in AV1_FLAGS.findall(content))
    grey = image.mode in GREY_MODES or is_grey_avif  # which Pillow may make RGB
    mode = ('L' if grey else 'RGB') + 'A' * alpha
    return np.atleast_3d(np.array(image if image.mode == mode else image.convert(mode)))


def _decode_16_bit(content: bytes, image: Image.Image, name: str) -> np.ndarray:
    """Decode 9 to 16 bits with OpenCV, as Pillow keeps the upper 8 of colour; a TIFF file is turned upright."""
    if image.format == 'HEIF':
        from pillow_heif import open_heif

        return np.atleast_3d(np.array(open_heif(io.BytesIO(content), convert_hdr_to_8bit=False, hdr_to_16bit=False)))
    decoded = _decode_tiff(content, name) if image.format == 'TIFF' else None
    image.load()  # refuses truncated files, which OpenCV would fill up
    if decoded is not None:
        return decoded
    import cv2  # which few pictures need, as tifffile

    samples = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if samples is None or samples.dtype != np.uint16 or samples.ndim == 2 and image.mode == 'RGBA':
        raise ImageReadError(f'{name}: this kind of 16-bit image is not supported; save it as a 16-bit PNG file.')
    if samples.ndim == 2:
        transparent = image.info.get('transparency')  # of which OpenCV knows in colour only
        if transparent is None:
            return samples[..., None]
        return np.dstack((samples, np.where(samples == transparent, 0, 65535).astype(np.uint16)))
    if samples.shape[2] == 3:
        return samples[..., ::-1]
    # OpenCV makes RGBA of grey with alpha.
    grey = image.format == 'PNG' and content[25] in (png.COLOUR_TYPES[1], png.COLOUR_TYPES[2])
    return samples[..., [0, 3] if grey else [2, 1, 0, 3]]


def _decode_tiff(content: bytes, name: str) -> np.ndarray | None:
    """Decode, upright, by tifffile, as OpenCV takes planes for pixels and white for black; None: leave it to OpenCV."""
    from tifffile import TiffFile

    with TiffFile(io.BytesIO(content)) as file:
        page = file.pages.first
        colours = 3 if page.photometric == RGB else 1
        white, planes, extra = page.photometric == WHITE_IS_ZERO, page.planarconfig == PLANES, tuple(page.extrasamples)
        extra = extra or (OPACITY,) * (page.samplesperpixel - colours)
        known = (page.fillorder, page.sampleformat, page.samplesperpixel) == (1, UNSIGNED, colours + len(extra))
        known = known and page.photometric <= RGB and (extra == () or extra == (OPACITY,) and not white)
        if known and page.compression == LZW and not (planes or white):
            return None
        if known and page.compression in TIFFFILE_COMPRESSIONS:
            samples = np.moveaxis(page.asarray(), 0, 2) if planes and page.samplesperpixel > 1 else page.asarray()
            return _upright(np.atleast_3d(~samples if white else samples), page.tags.valueof(ORIENTATION_TAG, 1))
        kind = (page.photometric, page.planarconfig, page.compression, *extra)
    fault = f'a TIFF file of this kind ({", ".join(getattr(each, "name", str(each)) for each in kind)})'
    raise ImageReadError(f'{name}: {fault} is not supported; save it as PNG of 8 or 16 bits per sample.')


def _split_orientation(exif: bytes | None) -> tuple[int, bytes | None]:
    """The orientation (1: upright) that camera data have, and the data with a neutral one; damage is a struct.error.

    A thumbnail, in the second directory, stays as it is, and is left out where the picture is turned.
    """
    if not exif:
        return 1, None
    exif = exif[exif.startswith(EXIF_PREFIX) and len(EXIF_PREFIX) :]
    order = '>' if exif.startswith(b'MM') else '<'
    (start,) = struct.unpack_from(order + 'I', exif, 4)
    (count,) = struct.unpack_from(order + 'H', exif, start)
    end = start + 2 + 12 * count
    for entry in range(start + 2, end, 12):
        tag, value = struct.unpack_from(order + 'H6xH', exif, entry)
        if tag == ORIENTATION_TAG:
            neutral = bytearray(exif)
            struct.pack_into(order + 'H', neutral, entry + 8, 1)
            if value != 1 and len(neutral) >= end + 4:
                struct.pack_into(order + 'I', neutral, end, 0)  # where the second directory is: nowhere
            return value, bytes(neutral)
    return 1, exif


def _upright(samples: np.ndarray, orientation: int) -> np.ndarray:
    """Turn and mirror pixels as the orientation (1 to 8) of camera data asks for; any other number is upright."""
    if 5 <= orientation <= 8:
        samples = samples.swapaxes(0, 1)
    rows, columns = -1 if orientation in (3, 4, 7, 8) else 1, -1 if orientation in (2, 3, 6, 7) else 1
    return samples[::rows, ::columns]
