"""`irnsigma card`: a model card of a checkpoint, for those who publish what they trained."""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path
from typing import Any

from irnsigma_plugin.checkpoints.builtin import CARD
from irnsigma_plugin.checks import printable
from irnsigma_plugin.commands.arguments import add_imports, network_finder

TO_FILL_IN = '*To be filled in:*'
TEMPLATE = Path(__file__).with_suffix('.md')


def add_command(subparsers: argparse._SubParsersAction) -> None:
    """Add `card` to the command line."""
    parser = subparsers.add_parser(
        'card',
        help='write a model card of what was trained and measured',
        description='Write a model card in Markdown, with the fields that Hugging Face reads, and with the tables,\n'
        'curves and pictures of `python -m basicsr.test` or `irnsigma evaluate`; they are copied beside it.\n'
        'Results of another model are refused. What only you can know is marked, to be filled in.',
        epilog='examples:\n  irnsigma card net_g_latest.pth --results results/test_IRNsigma_x4\n'
        '  irnsigma card net_g_latest.pth --results results/test_IRNsigma_x4 --license apache-2.0 \\\n'
        '    --training options/train_IRN_x4.yml options/train_IRNsigma_x4.yml --output card',
    )
    add = parser.add_argument
    add('model', metavar='CHECKPOINT', help='checkpoint, or the name of a built-in model')
    add('--results', required=True, metavar='DIR', help='folder that a test or evaluation of it has written')
    add('--training', nargs='+', default=[], metavar='OPT', help='option files that it was trained with, in order')
    add('--license', metavar='ID', help="the weights' licence, such as apache-2.0")
    add('--output', metavar='DIR', help='folder of the card (default: card in the folder of results)')
    add('--overwrite', action='store_true', help='replace a card that is there, and what you wrote into it')
    add_imports(parser)
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> None:
    import yaml

    from irnsigma_plugin.commands.info import describe
    from irnsigma_plugin.files import atomic_write, make_folder

    results, output = Path(args.results), Path(args.output or Path(args.results, 'card'))
    if (output / CARD).exists() and not args.overwrite:
        raise FileExistsError(f'{output / CARD} is there already; use --overwrite, or another --output.')
    rows = describe(args.model, network_finder(args))
    copies: dict[str, bytes] = {}
    for path in map(Path, args.training):
        if copies.setdefault(path.name, content := path.read_bytes()) != content:
            raise ValueError(f'{path}: another option file has this name, and both get into one folder; rename it.')
    training = [f'- [`{name}`]({name}): `python -m basicsr.train -opt {name}`' for name in copies]
    sections: list[str] = []
    index: list[dict[str, Any]] = []
    for folder, table in _tables(results, args.model, rows['model hash']).items():
        dataset = table.split('**')[1]
        slug = re.sub(r'\W+', '_', dataset).strip('_') or 'images'
        if any(result['dataset']['type'] == slug for result in index):
            raise ValueError(f'{folder}: another data set is called {slug} in the card; rename one and measure again.')
        sections.append(table.strip())
        for picture in filter(Path.exists, (folder / 'curve.png', folder / 'comparison.png')):
            copies[f'{slug}_{picture.name}'] = picture.read_bytes()
            sections.append(f'![{dataset}: {picture.stem}]({slug}_{picture.name})')
        task = {'type': 'image-to-image', 'name': f'image rescaling x{rows["scale"]}'}
        index.append({'task': task, 'dataset': {'type': slug, 'name': dataset}, 'metrics': _metrics(table)})
    name = printable(results.resolve().name.removeprefix('test_'))
    fields = {
        **({'license': args.license} if args.license else {}),
        'library_name': 'irnsigma_plugin',
        'pipeline_tag': 'image-to-image',
        'tags': ['image-rescaling', 'super-resolution', 'basicsr'],
        'metrics': sorted({metric['type'] for result in index for metric in result['metrics']}),
        'model-index': [{'name': name, 'results': index}],
    }
    card = TEMPLATE.read_text(encoding='utf-8').format(
        fields=yaml.safe_dump(fields, sort_keys=False, allow_unicode=True),
        name=name,
        scale=rows['scale'],
        network='\n'.join(f'- {key}: {rows[key]}' for key in rows if key not in ('file', 'size', 'kind', 'weights')),
        weights=f'{Path(args.model).stem}.safetensors',
        results='\n\n'.join(sections),
        training='\n'.join(training) or f'{TO_FILL_IN} option files, images, machine, time.',
        to_fill_in=TO_FILL_IN,
        license=args.license or f'{TO_FILL_IN} that of the weights, and of the images that they were trained on.',
    )
    make_folder(output)
    for file, content in {**copies, CARD: card.encode()}.items():
        atomic_write(output / file, content)
    print(f'wrote {output / CARD}: fill in what is marked. This puts the weights beside it:')
    print('  ' + shlex.join(['irnsigma', 'export', args.model, str(output), '--format', 'safetensors']))


def _tables(results: Path, model: str, model_hash: str) -> dict[Path, str]:
    """The table of each data set, by its folder; a ValueError if there is none, or one of another model."""
    measured = sorted((*results.glob('metrics.csv'), *results.glob('*/metrics.csv')))
    if not measured:
        remedy = 'run `python -m basicsr.test` or `irnsigma evaluate` with this model first.'
        raise ValueError(f'{results}: there are no results here (metrics.csv, table.md); {remedy}')
    tables = {file.parent: file.with_name('table.md').read_text(encoding='utf-8') for file in measured}
    for folder, table in tables.items():
        if f'\nModel hash: {model_hash}\n' not in table:
            remedy = 'measure it. (A test reads the entry path.param_key_g of a checkpoint.)'
            raise ValueError(f'{folder}: these are not results of {model}, whose model hash is {model_hash}; {remedy}')
    return tables


def _metrics(table: str) -> list[dict[str, Any]]:
    """The cells of a table of :func:`~irnsigma_plugin.evaluation.report.markdown_table`."""
    lines = (line.strip('|').split('|') for line in table.splitlines() if line.startswith('| '))
    titles, *rows = ([cell.strip(' ↑↓') for cell in line] for line in lines)
    return [
        {'type': name.split('_')[0], 'name': f'{name}, σ = {sigma}', 'value': float(value)}
        for sigma, *values in rows
        for name, value in zip(titles[1:], values)
        if value not in ('inf', 'nan')
    ]
