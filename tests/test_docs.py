"""What README and docs say of the code is true, and what they point to is there."""

from __future__ import annotations

import importlib
import inspect
import json
import re
import shlex
from pathlib import Path
from typing import Any, Callable

import cv2
import numpy as np
import pytest
import torch
import yaml
from helpers.invertibility import randomise

import irnsigma_plugin
from irnsigma_plugin.archs.irn_arch import DEFAULT_BLOCK_NUM, InvRescaleNet
from irnsigma_plugin.checkpoints.weights import NETWORK_ENTRY, read_checkpoint
from irnsigma_plugin.cli import COMMANDS, main
from irnsigma_plugin.losses.mixture_loss import MixtureLoss
from irnsigma_plugin.options.train_val import TrainOptions, ValOptions
from irnsigma_plugin.rescaling.rescaler import OVERLAP, Rescaler
from irnsigma_plugin.sigma import SigmaSampler

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', ROOT / 'CHANGELOG.md', *sorted((ROOT / 'docs').glob('*.md'))]
TEXT = {page.relative_to(ROOT).as_posix(): page.read_text(encoding='utf-8') for page in PAGES}
FIRST_PAGE = 280  # lines of README, at most
each_page = pytest.mark.parametrize('page', TEXT)


def section(page: str, title: str) -> str:
    """What stands below a heading of any level, up to the next of that level or a higher one."""
    found = re.search(rf'^(#+) {re.escape(title)}\n(.*?)(?=^#{{1,6}} |\Z)', TEXT[page], re.MULTILINE | re.DOTALL)
    assert found, f'{page} has no heading "{title}"'
    return found[2]


def code_blocks(text: str, language: str) -> list[str]:
    """Fenced blocks, without the indentation that those in lists have."""
    found = re.findall(rf'^( *)```{language}\n(.*?)^\1```', text, re.MULTILINE | re.DOTALL)
    return [re.sub(f'^{indent}', '', code, flags=re.MULTILINE) for indent, code in found]


def prose(text: str) -> str:
    """The text without its fenced blocks."""
    return re.sub(r'^( *)```.*?^\1```', '', text, flags=re.MULTILINE | re.DOTALL)


def test_basicsr_is_built_with_the_same_packages_everywhere():
    """Those of the script that makes environments: an older setuptools builds neither release nor git master."""
    (wanted,) = re.findall(r"'(setuptools[^']+)'", (ROOT / 'scripts/setup_env.sh').read_text())
    for page in ('README.md', 'docs/troubleshooting.md'):
        assert re.findall(r'"(setuptools[^"]*)"', TEXT[page]) == [wanted], page
    assert 'pip install --no-build-isolation git+https://github.com/XPixelGroup/BasicSR' in TEXT['README.md']


def test_how_much_less_psnr_programs_with_a_full_range_y_measure():
    from basicsr.metrics import calculate_psnr

    one, other = np.random.default_rng(0).integers(0, 256, (2, 8, 9, 3), np.uint8)  # BGR
    difference = (one.astype(float) - other) @ [0.114, 0.587, 0.299]  # of Y as in YIQ
    full_range = 10 * np.log10(255**2 / (difference**2).mean())
    less = calculate_psnr(one, other, crop_border=0, test_y_channel=True) - full_range
    assert less == pytest.approx(20 * np.log10(255 / 219), abs=1e-3)
    assert f'{20 * np.log10(255 / 219):.4f} dB less (20 log10(255 / 219))' in section(
        'docs/options.md', 'What to know beyond the tables'
    )


# ------------------------------------------------------------------------------------------------------- links


def anchors(text: str) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r'^#+ (.*)$', prose(text), re.MULTILINE)
    return {re.sub(r'[^\w\- ]', '', title.lower()).replace(' ', '-') for title in titles}


@each_page
def test_links(page):
    folder = (ROOT / page).parent
    for target in re.findall(r'\]\(([^)\s]+)\)', prose(TEXT[page])):
        if re.match(r'\w+:', target):
            assert target.startswith('https://'), target
            continue
        file, _, anchor = target.partition('#')
        path = (folder / file).resolve() if file else ROOT / page
        assert path.exists(), f'{page} links to {target}, which is not there'
        assert path.is_relative_to(ROOT), f'{page} links to {target}, outside of the repository'
        if anchor:
            assert path.suffix == '.md', target
            assert anchor in anchors(path.read_text(encoding='utf-8')), f'{page} links to {target}: no such heading'


def named_paths(text: str) -> list[str]:
    return re.findall(r'(?<![\w/.-])(?:scripts|tests|docs|options|irnsigma_plugin|\.github|\.ci)/[\w./+-]*\w', text)


def test_files_that_option_files_and_scripts_name():
    for file in (*(ROOT / 'options').glob('*.yml'), *(ROOT / 'scripts').glob('*.sh'), ROOT / '.ci/run'):
        for path in named_paths(file.read_text(encoding='utf-8')):
            assert (ROOT / path).exists(), f'{file} names {path}, which is not there'


@each_page
def test_files_that_are_named(page):
    """Paths from the repository's root, and option files by their name alone."""
    text = TEXT[page]
    if page == 'CHANGELOG.md':
        text = text.partition('## [0.1.0]')[0]
    for path in named_paths(text):
        assert (ROOT / path).exists(), f'{page} names {path}, which is not there'
    for name in set(re.findall(r'[\w+]+\.yml', text)) - {'options.yml', 'FILE.yml', 'ci.yml'}:
        assert (ROOT / 'options' / name).exists(), f'{page} names {name}, which is not in options/'


def test_every_option_file_to_train_is_named():
    named = set(re.findall(r'[\w+]+\.yml', TEXT['README.md']))
    assert {path.name for path in (ROOT / 'options').glob('train*.yml')} <= named


def test_every_experiment_is_that_of_an_option_file():
    names = {re.search('^name: (.*)', path.read_text(), re.MULTILINE)[1] for path in (ROOT / 'options').glob('*.yml')}
    own = [text for page, text in TEXT.items() if page != 'docs/extending.md']
    names |= {name for text in own for name in re.findall(r'--force_yml name=(\w+)', text)}
    found = {name for text in own for name in re.findall(r'experiments/([\w+]+)/models', text)}
    assert found
    assert found <= names


def test_readme_is_short_and_names_every_page():
    assert len(TEXT['README.md'].splitlines()) <= FIRST_PAGE
    links = set(re.findall(r'\]\(([\w/.]+)', section('README.md', 'Where to read on')))
    assert links == set(TEXT) - {'README.md'}


# ---------------------------------------------------------------------------------------------------- examples


@each_page
def test_commands_have_the_arguments_that_are_shown(page, monkeypatch):
    """Every line of `irnsigma` in a block is understood; the work itself is left to the commands' own tests."""
    shown = [
        line.partition('  #')[0]
        for block in code_blocks(TEXT[page], 'bash')
        for line in block.splitlines()
        if line.startswith('irnsigma ')
    ]
    understood = []

    def run(args):
        understood.append(args)

    for add_command in COMMANDS:
        monkeypatch.setattr(inspect.getmodule(add_command), '_run', run)
    for line in shown:
        assert main(shlex.split(line)[1:]) == 0, line
    assert len(understood) == len(shown)


def test_examples_of_other_formats_run(tmp_path, monkeypatch):
    pytest.importorskip('safetensors')
    pytest.importorskip('spandrel')
    monkeypatch.chdir(tmp_path)
    net = InvRescaleNet(scale=2, block_num=[1], growth_channels=1, clamp=0.5)
    torch.save({'params': net.state_dict(), NETWORK_ENTRY: {'clamp': 0.5}}, 'net_g_latest.pth')

    (command,) = code_blocks(section('docs/formats.md', 'safetensors'), 'bash')
    assert main(shlex.split(command)[1:]) == 0
    exported = read_checkpoint('exported/net_g_latest.safetensors')
    assert exported.network['clamp'] == 0.5
    torch.testing.assert_close(dict(exported.state_dict), dict(net.state_dict()), rtol=0, atol=0)

    names = {'lr': torch.rand(1, 3, 4, 5)}
    for code in code_blocks(section('docs/formats.md', 'spandrel'), 'python'):
        exec(code, names)
    assert names['hr'].shape == (1, 3, 8, 10)
    assert names['model'].model.sigma == 0.5


def test_the_first_example_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    image = np.random.default_rng(0).integers(0, 256, (16, 20, 3), np.uint8)
    cv2.imwrite('photo.jpg', image)
    names = {}
    exec(code_blocks(TEXT['README.md'], 'python')[0], names)
    assert names['restored'].shape == image.shape


def test_examples_of_rescaling_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = section('README.md', 'Rescaling from Python')
    models = tmp_path / re.search(r"'(experiments/.*)/net_g_latest\.pth'", text)[1]
    models.mkdir(parents=True)
    net = randomise(InvRescaleNet(4, [1, 1], 2))
    torch.save({'params': net.state_dict()}, models / 'net_g_latest.pth')
    image = np.random.default_rng(0).integers(0, 256, (282, 30, 3), np.uint8)
    names = {'image': image, 'np': np, 'Rescaler': Rescaler}
    with_number, with_map = code_blocks(text, 'python')
    exec(with_number, names)
    rescaler, lr = names['rescaler'], names['lr']
    assert (lr == Rescaler(net).downscale(image)).all()
    assert (names['restored'] == rescaler.upscale(lr, 0.5, name='baby', size=(282, 30))).all()
    exec(with_map, names)
    faithful, sharp = (rescaler.upscale(lr, sigma, name='baby', size=(282, 30)) for sigma in (0, 1))
    reach = net.receptive_field()
    assert (names['restored'][: 200 - reach] == sharp[: 200 - reach]).all()
    assert (names['restored'][200 + reach :] == faithful[200 + reach :]).all()
    assert (names['restored'][200 + reach :] != sharp[200 + reach :]).any()


def test_the_example_of_an_extension_is_the_one_that_is_tested():
    toy = ROOT / 'tests/third_party/irn_toy'
    code, metadata = (toy / 'irn_toy.py').read_text(), (toy / 'pyproject.toml').read_text()
    readme, page = section('README.md', 'Extending'), TEXT['docs/extending.md']
    assert code in code_blocks(page, 'python')
    assert metadata in code_blocks(page, 'toml')
    (entry_point,) = code_blocks(readme, 'toml')
    assert entry_point in metadata
    (options,) = code_blocks(readme, 'yaml')
    assert options in page
    assert f'class {yaml.safe_load(options)["network_g"]["type"]}(RescalingNet)' in code


# ------------------------------------------------------------------------------------------------------ tables


KEYS = '<!-- From here on: irnsigma check --list-keys -->\n'


def test_the_tables_of_keys_are_those_of_the_command(capsys):
    assert main(['check', '--list-keys']) == 0
    text, _, tables = TEXT['docs/options.md'].partition(KEYS)
    assert tables.strip() == capsys.readouterr().out.strip(), (
        "Print them anew: sed -i '/^<!-- From here/q' docs/options.md && irnsigma check --list-keys >> docs/options.md"
    )


def stated_defaults() -> dict[str, str]:
    """What the tables of keys give as default, by key: `train.sigma.per`."""
    return {
        f'{block.partition(",")[0]}.{key}': default.strip('`')
        for block, text in re.findall(
            r'^\*\*`(.+?)`\*\*\n(.*?)(?=^\*\*`|\Z)', TEXT['docs/options.md'].partition(KEYS)[2], re.M | re.S
        )
        for key, default in re.findall(r'^\| `(.+?)` \| (.*?) ?\| ', text, re.MULTILINE)
    }


def value_of(text: str) -> Any:
    if text == 'none':
        return None
    try:
        return json.loads(text)
    except ValueError:
        return text


def defaults_of(what: Callable) -> dict[str, Any]:
    return {name: parameter.default for name, parameter in inspect.signature(what).parameters.items()}


@pytest.mark.parametrize(
    ('block', 'defaults'),
    [
        ('train', vars(TrainOptions({}))),
        ('val', vars(ValOptions())),
        ('train.sigma', defaults_of(SigmaSampler)),
        ('train.mixture_opt', defaults_of(MixtureLoss)),
        ('network_g', defaults_of(InvRescaleNet)),
    ],
    ids=['train', 'val', 'sigma', 'mixture_opt', 'network_g'],
)
def test_every_option_is_in_the_tables_with_its_default(block, defaults):
    stated = stated_defaults()
    for name, default in defaults.items():
        key = f'{block}.{name}'
        assert any(f'{row}.'.startswith(f'{key}.') for row in stated), f'{key} is in no table of options'
        if stated.get(key):
            expected = None if default == {} else list(default) if isinstance(default, tuple) else default
            assert value_of(stated[key]) == expected, key


def test_defaults_that_depend_on_others_are_described():
    tables = TEXT['docs/options.md'].partition(KEYS)[2]
    assert SigmaSampler().values == (0, 0.5, 1)
    assert re.search(r'^\| `values` .* \[0, 0.5, 1\], by default', tables, re.MULTILINE)
    for scale, blocks in DEFAULT_BLOCK_NUM.items():
        assert re.search(rf'^\| `block_num` .*{re.escape(str(list(blocks)))} for x{scale}', tables, re.MULTILINE)


@pytest.mark.parametrize('scale', [2, 3, 4, 8])
def test_the_table_of_windows(scale):
    net = InvRescaleNet(scale)
    block_num = DEFAULT_BLOCK_NUM[scale]
    row = [net.receptive_field(), OVERLAP * scale]
    assert f'| ×{scale}, `{list(block_num)}` | {" | ".join(map(str, row))} |' in TEXT['docs/speed.md']


# ------------------------------------------------------------------------------------------- the project's files


def test_citation_names_this_version():
    citation = yaml.safe_load((ROOT / 'CITATION.cff').read_text(encoding='utf-8'))
    assert {'cff-version', 'message', 'title', 'authors'} <= set(citation)
    assert citation['version'] == irnsigma_plugin.__version__
    assert citation['license'] == 'Apache-2.0'


def test_changelog_has_this_version_and_what_is_to_come():
    titles = re.findall(r'^## \[(.*?)\]', TEXT['CHANGELOG.md'], re.MULTILINE)
    assert titles[0] == 'Unreleased'
    assert titles[1] == irnsigma_plugin.__version__


def test_renamed_import_paths_lead_somewhere():
    found = re.findall(
        r'^ *\| `(irnsigma_plugin[\w.]+)` \| `(irnsigma_plugin[\w.]*)\.(\w+)` \|$', TEXT['CHANGELOG.md'], re.M
    )
    assert found
    for before, module, name in found:
        assert hasattr(importlib.import_module(module), name), f'{module} has no {name}'
        assert before.endswith(f'.{name}')


def test_the_workflow_runs_what_everybody_runs():
    """On each Python that installs this package, and with no commands of its own."""
    (job,) = yaml.safe_load((ROOT / '.github/workflows/ci.yml').read_text(encoding='utf-8'))['jobs'].values()
    assert job['strategy']['matrix']['python'] == ['3.9', '3.10', '3.11', '3.12']
    assert [step['run'] for step in job['steps'] if 'run' in step] == ['.ci/run']
