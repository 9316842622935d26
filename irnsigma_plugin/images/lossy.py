"""JPEG, WebP and AVIF files, whose pixels lose detail: a writer, and a text beside the pixels."""

from __future__ import annotations

import html
import io
import re
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

KINDS = {'.jpg': 'JPEG', '.jpeg': 'JPEG', '.webp': 'WEBP', '.avif': 'AVIF'}  # Pillow's names
LONGEST = {'JPEG': 65500, 'WEBP': 16383, 'AVIF': 65536}  # side, in pixels
MOST_EXIF = 65527  # bytes in a JPEG file

# The text is a property of XMP data. Programs that pass these on may make an element of it.
XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:irnsigma="urn:irnsigma" irnsigma:text="{}"/></rdf:RDF></x:xmpmeta>'
)
XMP_TEXT = re.compile(rb'irnsigma:text(?:\s*=\s*"([^"]*)"|>([^<]*)<)')


def read_text(xmp: object) -> str | None:
    """The text in XMP data of a file that :func:`write` wrote, None if there is none."""
    match = XMP_TEXT.search(xmp) if isinstance(xmp, bytes) else None
    return match and html.unescape((match[1] or match[2] or b'').decode('ascii', 'replace'))


def write(file: BinaryIO, pixels: np.ndarray, kind: str, quality: int, text: str | None, **metadata: Any) -> None:
    """Write a file of a kind, with colour at full resolution where the kind can; WebP turns grey into RGB.

    `pixels` are (H, W, C) uint8 with C as for :func:`~irnsigma_plugin.images.png.write_png`, `quality` is from 1 to
    100, `metadata` are Pillow's `icc_profile` and `exif`.
    """
    subsampling = {'JPEG': 0, 'AVIF': '4:4:4' if pixels.shape[2] > 2 else '4:0:0'}
    settings = {
        **metadata,
        'subsampling': subsampling.get(kind),
        'xmp': text and XMP.format(html.escape(text)).encode(),
    }
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    content = io.BytesIO()  # given a file, Pillow's writer of JPEG does not notice that a full disk took only a part
    image.save(content, kind, quality=quality, **{name: value for name, value in settings.items() if value is not None})
    file.write(content.getbuffer())
