"""Make training data from photographs: the same as `irnsigma prepare`."""

import sys

from irnsigma_plugin.cli import main

if __name__ == '__main__':
    sys.exit(main(['prepare', *sys.argv[1:]]))
