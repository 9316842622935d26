"""The `.pth` file that loads irnsigma_plugin into BasicSR, and the option files; all else is in pyproject.toml."""

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
OPTION_FILES = sorted(map(str, Path('options').glob('*.yml')))  # for `irnsigma options`


class BuildData(Command):
    """Write the `.pth` file into the root of the wheel, that is into site-packages; option files into the package."""

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
        if not self.editable_mode:  # in which they are found where they are
            for target, file in self.get_output_mapping().items():
                self.mkpath(str(Path(target).parent))
                self.copy_file(file, target)

    def get_outputs(self):
        pth = [] if self.editable_mode else [str(Path(self.build_lib, PTH_NAME))]
        return [*pth, *self.get_output_mapping()]

    def get_output_mapping(self):
        folder = Path(self.build_lib, 'irnsigma_plugin', 'option_files')
        return {str(folder / Path(file).name): file for file in OPTION_FILES}

    def get_source_files(self):
        return OPTION_FILES


class Build(build):
    """The ordinary build, and what is above."""

    sub_commands = [*build.sub_commands, ('build_data', None)]


setup(cmdclass={'build': Build, 'build_data': BuildData})
