#!/usr/bin/env bash
# Creates the virtual environment of this checkout, with torch, BasicSR and the plugin, or repairs it.
#
#   source scripts/setup_env.sh     the environment is active afterwards
#
# A repeated call is quick: it does nothing until a requirement changes. Settings:
#   IRNSIGMA_VENV   where the environment goes            (default: .venv in the checkout)
#   PYTHON          the interpreter to build it with      (default: python3, or any 3.12 ... 3.9 found)
#   TORCH_SPEC      what to ask pip for                   (default: the versions this plugin is tested with)

if [ -z "${BASH_VERSION:-}" ]; then
    echo 'This script is for bash: run bash first, or activate .venv after bash scripts/quickstart.sh.' >&2
    return 1
fi

irnsigma_find_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.12 python3.11 python3.10 python3.9 python}; do
        # Running it, not just looking for it: version managers put stubs for absent versions on the PATH.
        if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(not (3, 9) <= sys.version_info < (3, 13))' \
            > /dev/null 2>&1; then
            echo "$candidate"
            return
        fi
    done
    echo "No Python 3.9 to 3.12 with venv found (tried: ${PYTHON:-python3, python3.12 ... python3.9, python})." \
        'Install one, or name it: PYTHON=/path/to/python3.11' >&2
    return 1
}

irnsigma_setup_env() {
    local root venv python stamp wanted
    root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd) || return 1
    venv=${IRNSIGMA_VENV:-$root/.venv}
    stamp=$venv/.irnsigma-requirements

    # Everything the content of the environment depends on.
    wanted=$(echo "${TORCH_SPEC:-}"; echo "$root"; cat "$root/setup.py" "$root/pyproject.toml" "${BASH_SOURCE[0]}")
    if [[ "$(cat "$stamp" 2> /dev/null)" != "$wanted" ]]; then
        if ! "$venv/bin/python" -m pip --version > /dev/null 2>&1; then
            if [[ -n "$(ls -A "$venv" 2> /dev/null)" && ! -e "$venv/pyvenv.cfg" ]]; then
                echo "$venv is no virtual environment, and has files in it: name another folder as IRNSIGMA_VENV." >&2
                return 1
            fi
            python=$(irnsigma_find_python) || return 1
            echo "Creating $venv with $("$python" --version)"
            "$python" -m venv --clear "$venv" || return 1
        fi
        irnsigma_install "$venv/bin/python" "$root" || return 1
        echo "$wanted" > "$stamp"
    fi
    # shellcheck disable=SC1091
    source "$venv/bin/activate"
}

irnsigma_install() {
    local python=$1 root=$2 torch=${TORCH_SPEC:-torch==2.14.1 torchvision==0.29.1}
    if [[ -z "${TORCH_SPEC:-}" ]] && "$python" -c 'import sys; sys.exit(sys.version_info >= (3, 10))'; then
        torch='torch torchvision'  # the last ones that support Python 3.9
    fi
    local install=("$python" -m pip install --quiet --disable-pip-version-check)
    echo "Installing $torch (large, may take minutes), BasicSR and this plugin"
    # shellcheck disable=SC2086
    "${install[@]}" $torch || return 1
    # The setup.py of basicsr imports these. Building it in isolation would download torch a second time.
    "${install[@]}" 'setuptools>=77,<81' wheel cython numpy || return 1
    "${install[@]}" --no-build-isolation basicsr==1.4.2 || return 1
    "${install[@]}" --no-build-isolation --editable "$root[test]"
}

irnsigma_setup_env
