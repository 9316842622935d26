"""What the page shows, which function answers what, and its server."""

from __future__ import annotations

import contextlib
import html
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from irnsigma_plugin.archs.bicubic import bicubic_upscale
from irnsigma_plugin.checks import one_line
from irnsigma_plugin.demo.studio import Photograph, Small, Studio, flat, painted_map
from irnsigma_plugin.images.picture import Picture

if int(gr.__version__.partition('.')[0]) < 6:
    raise ImportError(f'gradio {gr.__version__} is too old')

HEADER = """# IRN_σ
A photograph is made small, and restored from the small picture alone: faithful at σ = 0, sharp at σ = 1."""
METRICS = {'psnr_y': ('PSNR-Y ↑', '{:.2f} dB'), 'ssim_y': ('SSIM-Y ↑', '{:.4f}'), 'lpips': ('LPIPS ↓', '{:.4f}')}
ORIGINAL, ENLARGED = 'original', 'small picture, enlarged'
SHARP, FAITHFUL, OPACITY = '#ff7a00', '#0078ff', 0.6  # of paint
LARGEST_FILE = 64  # MiB
LONGEST_QUEUE, VISITORS = 32, 64  # of the latter as many are remembered
KEPT_SECONDS = 3600  # files, and what is known of a visitor, after the last use
NO_PICTURE = 'there is no picture, or none any more after an hour; open one.'
THUMBNAIL, CANVAS = 160, 800  # longest side, in pixels
PROGRESS = gr.Progress()  # as a default, by which gradio knows who tells it
REFUSED = f': this has to be a picture file of at most {LARGEST_FILE} MB'  # gradio says no more than "Error"
CSS = f'#upload .error::after {{content: "{REFUSED}"}}'
CSS += """
#small img {width: auto; max-width: none; object-fit: none; image-rendering: pixelated}
#result [data-testid=status-tracker] {background: color-mix(in srgb, var(--block-background-fill) 50%, transparent)}
@media (max-width: 700px) {
  #left, #right {display: contents}
  #left > *, #right > * {flex: 1 0 100%}
  #paint {order: 1}
}
"""


def build_page(studio: Studio, examples: Sequence[Path]) -> gr.Blocks:
    """The page; the files that it serves lie in the folder that `GRADIO_TEMP_DIR` names."""

    def open_file(path: str | Path) -> dict:
        with error_on_the_page():
            opened = studio.open(Path(path))
            paper = reduced(Image.fromarray(flat(opened.picture)), CANVAS)
            editable = {'background': paper, 'layers': [], 'composite': paper}
            return {photograph: opened, small: None, canvas: editable, curve: gr.Image(None, visible=False)}

    def open_example(event: gr.SelectData) -> dict:
        return open_file(examples[event.index])

    def restore(values: dict, progress: gr.Progress = PROGRESS) -> Iterator[dict]:
        opened, shrunk, name = values[photograph], values[small], values[model]
        with error_on_the_page():
            if not is_kept(opened, values[sizes]):
                return
            if shrunk is None or shrunk.model != name:
                progress(0, 'making it small')
                shrunk = studio.shrink(opened, name)
            os.utime(shrunk.path)  # it is kept from now on, as what is set anew: photograph, small and last
            lr_path = str(shrunk.path)
            button = gr.DownloadButton(value=lr_path)  # a path alone would not reach a button while this goes on
            yield {photograph: opened, small: shrunk, lr_image: lr_path, lr_file: button, sizes: describe_sizes(shrunk)}
            level = values[sigma]
            painted = painted_map(values[canvas]['layers'], OPACITY, level, shrunk.picture.pixels.shape[:2])
            how = f'at σ = {level:g}' if painted is None else 'by the map'
            progress(0.3, f'restoring {how}')
            restored = studio.restore(shrunk, level if painted is None else painted, values[seed])
            for warning in restored.warnings:
                gr.Warning(html.escape(f'{opened.path.name}: {warning}'))
            stem, after = opened.path.stem, flat(restored)
            map_path = None if painted is None else str(studio.write(Picture(painted), f'{stem}_map'))
            yield {
                last: after,
                result: pair(shrunk, after, values[against]),
                hr_file: gr.DownloadButton(value=str(studio.write(restored, f'{stem}_restored'))),
                map_file: gr.DownloadButton(value=map_path, visible=map_path is not None),
            }
            progress(0.8, 'measuring')
            yield {figures: describe_figures(studio.measure(shrunk, restored))}

    def compare(opened: Photograph | None, shown: str, *compared: Any) -> tuple[np.ndarray, np.ndarray] | None:
        with error_on_the_page():
            return pair(*compared) if is_kept(opened, shown) else None

    def pair(shrunk: Small | None, after: np.ndarray | None, left: str) -> tuple[np.ndarray, np.ndarray] | None:
        if shrunk is None or after is None:
            return None
        original = shrunk.photograph.original
        if left == ORIGINAL and original is not None:
            return flat(original), after
        enlarged = bicubic_upscale(flat(shrunk.picture), studio.models[shrunk.model].scale)
        return enlarged[: after.shape[0], : after.shape[1]], after

    def draw_curve(shrunk: Small | None, number: int, progress: gr.Progress = PROGRESS) -> gr.Image:
        with error_on_the_page():
            if shrunk is None:
                raise ValueError(NO_PICTURE)
            drawn = studio.curve(shrunk, number, lambda sigmas: progress.tqdm(sigmas, desc='restoring', unit='σ'))
            return gr.Image(drawn, visible=True)

    with gr.Blocks(title='IRN_σ', analytics_enabled=False, delete_cache=(KEPT_SECONDS // 6, KEPT_SECONDS)) as page:
        photograph, small, last = (gr.State(None, time_to_live=KEPT_SECONDS) for _ in range(3))
        gr.Markdown(HEADER)
        with gr.Row():
            with gr.Column(scale=2, min_width=320, elem_id='left'):
                look: dict[str, Any] = {'file_types': ['image'], 'height': 160, 'elem_id': 'upload'}
                upload = gr.File(label='Your photograph, or a small one made here', **look)
                look = {'allow_preview': False, 'interactive': False, 'buttons': []}
                thumbnails = [(reduced(Image.open(path), THUMBNAIL), path.stem) for path in examples]
                gallery = gr.Gallery(thumbnails, label='Examples', columns=4, height=135, **look)
                sigma = gr.Slider(0, 1, 0.5, step=0.05, label='σ', info='0: faithful, 1: sharp')
                with gr.Row():
                    seed = gr.Number(0, label='Seed', precision=0, min_width=80)
                    model = gr.Dropdown(list(studio.models), label='Model', scale=2, min_width=160)
                with gr.Column(elem_id='paint'):
                    brush = gr.Brush(colors=[(SHARP, OPACITY), (FAITHFUL, OPACITY)], color_mode='fixed')
                    look = {'sources': (), 'transforms': (), 'layers': False, 'buttons': [], 'format': 'png'}
                    canvas = gr.ImageEditor(label='Paint σ', height=340, brush=brush, **look)
                    paint_button = gr.Button('Restore: orange sharp, blue faithful')
            with gr.Column(scale=3, min_width=320, elem_id='right'):
                result = gr.ImageSlider(
                    label='Before and after', format='png', buttons=['fullscreen'], elem_id='result'
                )
                figures = gr.Markdown(elem_id='figures')
                against = gr.Radio([ORIGINAL, ENLARGED], value=ORIGINAL, label='Left of the line')
                lr_image = gr.Image(label='Small, at its true size', elem_id='small', buttons=[])
                sizes = gr.Markdown()
                with gr.Row():
                    lr_file = gr.DownloadButton('↓ Small picture')
                    hr_file = gr.DownloadButton('↓ Restored picture')
                    map_file = gr.DownloadButton('↓ Map of σ', visible=False)
                curve_button = gr.Button('Perception-distortion curve of this photograph')
                curve = gr.Image(label='Curve', format='png', buttons=[], visible=False)

        queue: dict[str, Any] = {'concurrency_id': 'network', 'concurrency_limit': 1, 'api_visibility': 'private'}
        inputs = {photograph, small, canvas, sigma, seed, model, against, sizes}
        outputs = [photograph, small, last, result, lr_image, sizes, figures, lr_file, hr_file, map_file]
        restoring: dict[str, Any] = {**queue, 'fn': restore, 'inputs': inputs, 'outputs': outputs}
        restoring['show_progress_on'] = result
        queue['outputs'] = [photograph, small, canvas, curve]
        openings = [upload.upload(open_file, upload, **queue), gallery.select(open_example, **queue)]
        if examples:
            openings.append(page.load(lambda: open_file(examples[0]), **queue))
        for opening in openings:
            opening.success(**restoring)
        changes = [sigma.change, seed.submit, model.input, paint_button.click]
        gr.on(changes, trigger_mode='always_last', **restoring)
        against.input(compare, [photograph, sizes, small, last, against], result, api_visibility='private')
        curve_button.click(draw_curve, [small, seed], **{**queue, 'outputs': curve})
    return page


def is_kept(opened: Photograph | None, shown: str) -> bool:
    """Whether there is a photograph; a ValueError where there was one, for the page shows its sizes."""
    if opened is None and shown:
        raise ValueError(NO_PICTURE)
    return opened is not None


@contextlib.contextmanager
def error_on_the_page() -> Iterator[None]:
    """Show an error of the block as the commands do, in one line."""
    try:
        yield
    except (OSError, RuntimeError, ValueError, MemoryError, FloatingPointError) as error:
        raise gr.Error(html.escape(one_line(error)), duration=None, print_exception=False) from error


def reduced(image: Image.Image, longest: int) -> Image.Image:
    """An image with no side longer than this."""
    image.thumbnail((longest, longest))
    return image.convert('RGB')


def describe_sizes(small: Small) -> str:
    """Pixels and bytes of the original and of the small picture."""
    photograph, lr_bytes = small.photograph, small.path.stat().st_size
    share = '' if photograph.original is None else f' ({lr_bytes / photograph.file_bytes:.0%})'
    sizes = {'Original': f'{photograph.file_bytes:,} bytes', 'Small': f'{lr_bytes:,} bytes{share}'}
    return '  \n'.join(
        f'**{what}:** {picture.pixels.shape[1]} × {picture.pixels.shape[0]} pixels, {sizes[what]}'
        for what, picture in (('Original', photograph.original), ('Small', small.picture))
        if picture is not None
    )


def describe_figures(figures: dict[str, float]) -> str:
    """The metrics that are shown, as a table; nothing for none."""
    shown = {title: form.format(figures[name]) for name, (title, form) in METRICS.items() if name in figures}
    return shown and f'| {" | ".join(shown)} |\n|{"---|" * len(shown)}\n| {" | ".join(shown.values())} |' or ''


@contextlib.contextmanager
def served(studio: Studio, examples: Sequence[Path], host: str, port: int | None, share: bool) -> Iterator[str]:
    """Serve the page within the block, at the address that is yielded; `share`: through gradio's servers, for everyone.

    Raises:
        OSError: The address cannot be had.
    """
    os.environ['GRADIO_TEMP_DIR'] = str(studio.folder)
    page = build_page(studio, examples).queue(max_size=LONGEST_QUEUE)
    settings: dict[str, Any] = {'css': CSS, 'theme': gr.themes.Default(font=('system-ui', 'sans-serif'))}
    settings |= {'max_file_size': f'{LARGEST_FILE}mb', 'state_session_capacity': VISITORS, 'allowed_paths': []}
    settings |= {'footer_links': [], 'ssr_mode': False, 'quiet': True, 'prevent_thread_lock': True}
    try:
        _, local, public = page.launch(server_name=host, server_port=port, share=share, **settings)
    except OSError as error:
        where = host if port is None else f'{host}:{port}'
        raise OSError(f'{where} cannot be had for the page; name another --port, or another --host.') from error
    try:
        yield public or local
    finally:
        page.close(verbose=False)
        studio.busy.acquire()  # until what is being computed is done, and for good: no more is
