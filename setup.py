"""Packaging of irnsigma_plugin, including the `.pth` file that loads it into BasicSR."""

import re
from pathlib import Path

from setuptools import Command, find_packages, setup
from setuptools.command.build import build

# One line, executed by `site` at every interpreter start. It must never fail, not even when the package is
# gone and this file is left behind.
PTH_NAME = 'irnsigma_plugin.pth'
PTH_LINE = (
    "import os; exec('try:\\n import irnsigma_plugin\\nexcept ImportError: pass' "
    "if os.environ.get('IRNSIGMA_AUTOLOAD') != '0' else '')\n"
)


class BuildPth(Command):
    """Write the `.pth` file into the root of the wheel, that is into site-packages."""

    user_options = []
    editable_mode = False  # set by setuptools when it builds an editable wheel

    def initialize_options(self):
        self.build_lib = None

    def finalize_options(self):
        self.set_undefined_options('build_py', ('build_lib', 'build_lib'))

    def run(self):
        # An editable wheel leaves build_lib out, but packs whatever lies in the install folder.
        root = self.get_finalized_command('install').install_lib if self.editable_mode else self.build_lib
        self.mkpath(root)
        Path(root, PTH_NAME).write_text(PTH_LINE)

    def get_outputs(self):
        return [str(Path(self.build_lib, PTH_NAME))]

    def get_output_mapping(self):
        return {}

    def get_source_files(self):
        return []


class Build(build):
    """The ordinary build, and the `.pth` file."""

    sub_commands = [*build.sub_commands, ('build_pth', None)]


# Other formats. There are versions of all of them for every Python that is supported.
FORMATS = {'safetensors': ['safetensors'], 'spandrel': ['spandrel>=0.4'], 'onnx': ['onnx', 'onnxscript', 'onnxruntime']}
VERSION = re.search(r"__version__ = '(.+)'", Path('irnsigma_plugin/__init__.py').read_text()).group(1)

setup(
    name='irnsigma_plugin',
    version=VERSION,
    description='IRN_sigma as a BasicSR plugin: image rescaling, adjustable between fidelity and perception',
    long_description=Path('README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    # Not 3.13: basicsr 1.4.2 comes as an sdist only, and its setup.py does not run there.
    python_requires='>=3.9,<3.13',
    packages=find_packages(include=['irnsigma_plugin', 'irnsigma_plugin.*']),
    package_dir={'': '.'},  # an editable install is then a plain path entry, cheap at interpreter start
    install_requires=[
        'basicsr>=1.4.2',
        'lmdb',
        'lpips',
        'matplotlib',
        'numpy',
        'opencv-python',
        'packaging',
        'pillow',
        'pyyaml',
        'torch>=2.5',
        'torchvision',
        'tqdm',
    ],
    extras_require={**FORMATS, 'test': ['pytest', 'ruff', *sum(FORMATS.values(), [])]},
    entry_points={'console_scripts': ['irnsigma = irnsigma_plugin.cli:main']},
    cmdclass={'build': Build, 'build_pth': BuildPth},
    zip_safe=False,
)
