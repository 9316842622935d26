"""The page of `irnsigma demo`, used by a browser: the real server, a small network, headless Chromium."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from helpers.experiment import has_alexnet
from helpers.invertibility import randomise
from PIL import Image

from irnsigma_plugin.archs.irn_arch import InvRescaleNet
from irnsigma_plugin.cli import main

pytest.importorskip('gradio', reason='needs gradio: pip install "irnsigma_plugin[demo]"')
playwright = pytest.importorskip('playwright.sync_api', reason='needs playwright: pip install playwright')
CHROMIUM = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
if CHROMIUM is None:
    pytest.skip('needs Chromium: apt-get install chromium', allow_module_level=True)

SECONDS = 200
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy is not for this machine's own server
FLAGS = ('--no-sandbox', '--disable-gpu', '--disable-background-networking', '--disable-component-update')
# Notes every address outside this machine that the server looks up or connects to.
SERVER = """
import sys
LOCAL = ('127.0.0.1', 'localhost', '::1', None)
def watch(event, args):
    if event in ('socket.connect', 'socket.getaddrinfo'):
        host = args[1][0] if event == 'socket.connect' and isinstance(args[1], tuple) else args[0]
        if isinstance(host, (str, bytes)) and host not in LOCAL:
            open('outside.txt', 'a').write(f'{event} {args}')
sys.addaudithook(watch)
from irnsigma_plugin.cli import main
from irnsigma_plugin.imagenet import weights
weights.SERVER = 'http://127.0.0.1:9/'  # of the weights of LPIPS, as for the tests themselves
sys.exit(main(['demo', *sys.argv[1:]]))
"""


class Server(NamedTuple):
    address: str
    folder: Path  # with the checkpoint, its current directory `work`, its `home`, and `temporary` files
    process: subprocess.Popen


@pytest.fixture(scope='module')
def server(tmp_path_factory, checkout_path) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp('demo')
    for name in ('work', 'home', 'temporary'):
        (folder / name).mkdir()
    env = {'PYTHONPATH': checkout_path, 'HOME': str(folder / 'home'), 'TMPDIR': str(folder / 'temporary')}
    env['TORCH_HOME'] = os.path.dirname(torch.hub.get_dir())  # the weights are where they are for the tests
    env['MPLCONFIGDIR'] = str(folder / 'temporary')  # matplotlib's list of fonts
    torch.save({'params': randomise(InvRescaleNet(4, [1, 1], 2)).state_dict()}, folder / 'model.pth')
    process = subprocess.Popen(
        [sys.executable, '-c', SERVER, '--model', str(folder / 'model.pth'), '--precision', 'fp32'],
        cwd=folder / 'work',
        env={**os.environ, **env},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        line = process.stdout.readline()
        assert re.fullmatch(r'http://127\.0\.0\.1:\d+/ \(Ctrl-C ends it\)\n', line)
        yield Server(line.split()[0], folder, process)
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope='module')
def chromium() -> Iterator:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS, timeout=1000 * SECONDS)
        yield browser
        browser.close()


class Visitor:
    """Somebody who looks at the page, and has waited for its first picture."""

    def __init__(self, browser, server: Server, folder: Path) -> None:
        self.server, self.folder = server, folder
        folder.mkdir()
        self.page = browser.new_context(viewport={'width': 1280, 'height': 900}).new_page()
        self.page.set_default_timeout(1000 * SECONDS)
        self.hosts: set[str] = set()
        self.page.on('request', lambda request: self.hosts.add(request.url.split('/')[2]))
        self.page.goto(server.address)
        self.page.locator('#result img').nth(1).wait_for()
        self.page.locator('th').first.wait_for()

    @contextlib.contextmanager
    def restored(self) -> Iterator[None]:
        """Leave the block when both the restored picture and its figures, which come last, have become others."""
        current = (
            "[[...document.querySelectorAll('#result img')].pop()?.src, document.querySelector('#figures').innerText]"
        )
        before = self.page.evaluate(current)
        yield
        self.page.wait_for_function(f'before => {current}.every((now, i) => now != before[i])', arg=before)

    def upload(self, path: Path) -> None:
        clear = self.page.locator('#left').get_by_label('Clear', exact=True)
        if clear.count():  # of the file before
            clear.first.click()  # a failed canvas has another
        self.page.locator('#left input[type=file]').first.set_input_files(path)

    def check(self, *options: str) -> Path:
        """The restored picture is byte by byte that of `irnsigma upscale` with options; the path of the small one."""
        small = self.download('↓ Small picture')
        target = self.folder / 'by_command.png'
        model = ('--model', str(self.server.folder / 'model.pth'))
        assert main(['upscale', str(small), str(target), '--overwrite', *model, *options]) == 0
        assert self.download('↓ Restored picture').read_bytes() == target.read_bytes()
        return small

    def download(self, button: str) -> Path:
        with self.page.expect_download() as waiting:
            self.page.get_by_text(button, exact=True).click()
        path = self.folder / waiting.value.suggested_filename
        waiting.value.save_as(path)
        return path

    def error(self) -> str:
        toast = self.page.get_by_test_id('toast-body')
        toast.wait_for()
        text = toast.inner_text()
        toast.get_by_test_id('toast-close').click()
        toast.wait_for(state='detached')
        return text


@pytest.fixture
def visitor(chromium, server, tmp_path) -> Visitor:
    return Visitor(chromium, server, tmp_path / 'downloads')


@pytest.fixture
def photograph(tmp_path) -> Path:
    """A part of a photograph of scikit-image, of a size that is no multiple of the scale."""
    return cut_out(tmp_path / 'my photo (1).png', 'coffee.png', 117, 90)


def cut_out(path: Path, name: str, width: int, height: int) -> Path:
    skimage = pytest.importorskip('skimage')
    with Image.open(Path(skimage.__file__).parent / 'data' / name) as image:
        image.crop((100, 100, 100 + width, 100 + height)).save(path)
    return path


def test_slide_paint_and_download(visitor, photograph, server):
    page = visitor.page
    with visitor.restored():
        visitor.upload(photograph)
    assert '117 × 90 pixels' in page.locator('#right').inner_text()
    assert page.locator('th').all_inner_texts()[:2] == ['PSNR-Y ↑', 'SSIM-Y ↑']
    assert page.locator('#small img').evaluate('image => [image.width, image.height]') == [30, 23]
    small = visitor.check('--sigma', '0.5')
    assert small.name == photograph.name

    with visitor.restored():
        page.get_by_test_id('number-input').fill('1')
    visitor.check('--sigma', '1')
    with visitor.restored():
        page.get_by_label('Seed').fill('7')
        page.keyboard.press('Enter')
    visitor.check('--sigma', '1', '--seed', '7')
    with visitor.restored():
        page.get_by_test_id('range-input').focus()
        page.keyboard.press('Home')
    visitor.check('--sigma', '0', '--seed', '7')

    canvas = page.locator('#paint canvas').first
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    x, y = box['x'] + box['width'] / 2, box['y'] + box['height'] / 2
    page.mouse.move(x - 40, y)
    page.mouse.down()
    page.mouse.move(x + 40, y, steps=5)
    page.mouse.up()
    with visitor.restored():
        page.get_by_role('button', name='Restore: orange sharp').click()
    sigma_map = visitor.download('↓ Map of σ')
    levels = np.asarray(Image.open(sigma_map))
    assert levels.shape == (23, 30)
    assert levels[11, 15] == 255
    assert levels[0, 0] == 0
    visitor.check('--sigma-map', str(sigma_map), '--seed', '7')

    left = page.locator('#result img').first
    before = left.get_attribute('src')
    page.get_by_text('small picture, enlarged').click()
    page.wait_for_function('before => document.querySelector("#result img").getAttribute("src") != before', arg=before)
    if has_alexnet():
        count = page.locator('#right img').count()
        page.get_by_role('button', name='Perception-distortion').click()
        page.locator('#right img').nth(count).wait_for()

    with visitor.restored():
        visitor.upload(small)  # alone
    assert 'Original' not in page.locator('#right').inner_text().split('Small:')[0].split('true size')[1]
    assert page.locator('th').count() == 0
    visitor.check('--sigma', '0', '--seed', '7')
    assert visitor.hosts == {server.address.split('/')[2]}


def test_errors_are_one_line_and_the_page_goes_on(visitor, photograph, tmp_path):
    broken = tmp_path / 'broken.png'
    broken.write_bytes(photograph.read_bytes()[:2000])
    visitor.upload(broken)
    assert 'broken.png: damaged' in visitor.error()
    large = tmp_path / 'large.png'  # without pixels, so that whoever decodes it calls it damaged
    header = b'IHDR' + struct.pack('>2I5B', 8000, 6250, 8, 2, 0, 0, 0)
    chunks = (struct.pack('>I', 13), header, struct.pack('>I', zlib.crc32(header)), struct.pack('>I', 1000), b'IDAT')
    large.write_bytes(b'\x89PNG\r\n\x1a\n' + b''.join(chunks))
    visitor.upload(large)
    assert 'large.png: 8000x6250 pixels are more than the 3 megapixels that are taken here' in visitor.error()
    with open(large, 'r+b') as file:
        file.truncate(64 * 2**20 + 1)
    visitor.upload(large)
    error = visitor.page.locator('#upload .error')
    error.wait_for()
    shown = error.evaluate('element => element.innerText + getComputedStyle(element, "::after").content')
    assert shown == 'Error": this has to be a picture file of at most 64 MB"'
    with visitor.restored():
        visitor.upload(photograph)
    assert '117 × 90 pixels' in visitor.page.locator('#right').inner_text()
    visitor.check('--sigma', '0.5')


def test_a_file_that_is_too_large_is_refused_by_the_server_too(server):
    head = b'--B\r\nContent-Disposition: form-data; name="files"; filename="large.png"\r\n\r\n'
    form = {'Content-Type': 'multipart/form-data; boundary=B'}
    large = urllib.request.Request(f'{server.address}gradio_api/upload', head + bytes(64 * 2**20 + 1), form)
    with pytest.raises((urllib.error.URLError, ConnectionError)) as refused:  # it may hang up before all is sent
        DIRECT.open(large)
    assert getattr(refused.value, 'code', 413) == 413
    assert not [path for path in server.folder.rglob('*') if path.is_file() and path.stat().st_size > 2**24]


def test_two_visitors_at_once(chromium, visitor, server, photograph, tmp_path):
    other = Visitor(chromium, server, tmp_path / 'others')
    rocket = cut_out(tmp_path / 'rocket.png', 'rocket.jpg', 96, 60)
    with visitor.restored(), other.restored():
        visitor.upload(photograph)
        other.upload(rocket)
    assert visitor.check('--sigma', '0.5').name == photograph.name
    assert other.check('--sigma', '0.5').name == rocket.name


def test_no_file_can_be_fetched_by_its_path(server):
    secret = server.folder / 'work' / 'secret.txt'
    secret.write_text('secret')
    for path in (secret, '/etc/passwd', 'secret.txt', f'{server.folder}/temporary/../work/secret.txt'):
        with pytest.raises(urllib.error.HTTPError) as refused:
            DIRECT.open(f'{server.address}gradio_api/file={path}')
        assert refused.value.code in (403, 404)
    secret.unlink()


def test_it_ends_without_a_trace(server):
    """The last test: nothing was sent anywhere, and nothing is left behind."""
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(timeout=SECONDS) == 0
    left = [path for path in server.folder.rglob('*') if path.is_file() or 'irnsigma' in path.name]
    assert [path.name for path in left if not path.name.startswith('fontlist')] == ['model.pth']
