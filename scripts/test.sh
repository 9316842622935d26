#!/usr/bin/env bash
# Sets up the environment if need be and runs all tests. Arguments go to pytest: bash scripts/test.sh -k haar
set -euo pipefail

cd "$(dirname "$0")/.."
source scripts/setup_env.sh
python -m pytest -q "$@"
