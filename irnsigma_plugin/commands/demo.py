"""`irnsigma demo`: a page to try a model on."""

from __future__ import annotations

import argparse
import contextlib
import functools
import signal
import tempfile
import time
from pathlib import Path

from irnsigma_plugin.checkpoints import builtin
from irnsigma_plugin.commands import arguments
from irnsigma_plugin.commands.evaluate import usable_metrics

EXAMPLES = ('chelsea.png', 'coffee.png', 'astronaut.png', 'rocket.jpg')  # of scikit-image, which BasicSR needs
LOCAL = '127.0.0.1'


def add_command(subparsers: argparse._SubParsersAction) -> None:
    """Add `demo` to the command line."""
    parser = subparsers.add_parser(
        'demo',
        help='show a page in the browser: a photograph, small and restored at any sigma',
        description='Serve a page for the browser, to try a model on a photograph: the small image, the restored one\n'
        'at the sigma of a slider or of a painted map, their figures and the curve. All that it writes lies in a\n'
        'temporary folder, which is removed at the end. Needs: pip install "irnsigma_plugin[demo]".',
        epilog='examples:\n  irnsigma demo\n  irnsigma demo --model net_g_latest.pth --port 8000',
    )
    arguments.add_network_arguments(parser)
    add = parser.add_argument
    add('--host', default=LOCAL, help=f'address to listen at (default: {LOCAL}); 0.0.0.0: everybody in your network')
    add('--port', type=arguments.count_from(1, 65535), metavar='N', help='default: the first free one from 7860')
    add('--share', action='store_true', help='also a public address, through the servers of gradio')
    add('--megapixels', type=arguments.count_from(1), default=3, metavar='N', help='largest photograph (default: 3)')
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> None:
    try:
        from irnsigma_plugin.demo.page import served
    except ImportError as error:
        raise RuntimeError(f'the page needs gradio 6 ({error}): pip install "irnsigma_plugin[demo]"') from error
    import skimage

    from irnsigma_plugin.demo.studio import Studio

    names = dict.fromkeys((args.model, *builtin.names()))
    models = {Path(name).name: arguments.load_rescaler(args, name) for name in names}
    metrics = functools.lru_cache(None)(usable_metrics)
    data = Path(skimage.__file__).parent / 'data'
    examples = [data / name for name in EXAMPLES if (data / name).is_file()]
    for name in ('SIGTERM', 'SIGHUP'):  # which would leave the folder behind
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix='irnsigma_demo_') as folder:
        studio = Studio(models, metrics, arguments.DEFAULT_SIGMAS, args.megapixels * 10**6, Path(folder), args.overlap)
        with served(studio, examples, args.host, args.port, args.share) as address:
            print(f'{address} (Ctrl-C ends it)', flush=True)
            with contextlib.suppress(KeyboardInterrupt):
                while True:
                    time.sleep(1)
