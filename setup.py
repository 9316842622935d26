"""The `.pth` file that loads irnsigma_plugin into BasicSR; everything else about the package is in pyproject.toml."""

from pathlib import Path

from setuptools import Command, setup
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


setup(cmdclass={'build': Build, 'build_pth': BuildPth})
