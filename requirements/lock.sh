#!/bin/sh
# Writes run.lock and dev.lock from pyproject.toml: exact versions, hashes for every platform,
# no registry named in them. Give UPGRADE= (empty) to keep versions that still fit.
set -eu
cd "$(dirname "$0")/.."
upgrade=${UPGRADE---upgrade}
command -v uv >/dev/null || { echo "make lock needs uv: python -m pip install uv" >&2; exit 1; }

compile() { # OUTPUT EXTRA...
    output=$1; shift
    # shellcheck disable=SC2086  # $upgrade is one word or none
    uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
        --no-header --no-emit-index-url --no-emit-find-links \
        $upgrade "$@" --output-file "$output" pyproject.toml
}

compile requirements/run.lock --extra build
compile requirements/dev.lock --extra build --extra dev --constraint requirements/run.lock
