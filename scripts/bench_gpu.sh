#!/usr/bin/env bash
# Everything a GPU has to show, in under 8 minutes: the self-check, the table of bounds beside PEFT, time by op.
#
#   scripts/bench_gpu.sh FOLDER [OUT] [--tiny]
#
# FOLDER holds a build with the feature tch: `tune` and `tune-libtorch` (target/release). The machine needs an NVIDIA driver
# and a Python with PyTorch 2.11, no Rust. Results go to OUT, else to $OUT, else to bench-gpu/: results.md, results.json,
# and what each part said. SMOLLM2=DIR, a folder with SmolLM2-135M-Instruct, adds the loss curve and answers beside those of
# transformers.
# --tiny runs every line on the CPU with a model of no use, to try this script itself.
# A part that would begin after $LIMIT seconds (420) is left out and told as not measured; none goes on a minute longer.
set -uo pipefail

tiny=false arguments=()
for argument in "$@"; do
    if [[ $argument == --tiny ]]; then tiny=true; else arguments+=("$argument"); fi
done
if ((${#arguments[@]} < 1)); then
    sed -n '2,12s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
tune=$(cd "${arguments[0]}" && pwd)/tune
out=${arguments[1]:-${OUT:-bench-gpu}}
mkdir -p "$out"
out=$(cd "$out" && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export HF_HUB_OFFLINE=1 TUNE_CACHE=$scratch/tokens
limit=${LIMIT:-420}

# What is measured; --tiny puts the same through on a CPU.
device=cuda:0 big=llama-8b middle=llama-1b small=smollm2-135m steps=10 peer_steps=6 curve_steps=200
big_rows=(2 4096) middle_rows=(4 2048) small_rows=(8 512) nf4_rows=(1 2048) long=78080 documents=200-2000
big_blocks=32 middle_blocks=16 small_blocks=30
ten_gib=10GiB twenty_four_gib=24GiB
if $tiny; then
    # Threads that wait by spinning cost more than such a model.
    export OMP_NUM_THREADS=1
    device=libtorch big=tiny middle=tiny small=tiny steps=2 peer_steps=2 curve_steps=4
    big_rows=(2 64) middle_rows=(2 64) small_rows=(2 64) nf4_rows=(1 64) long=256 documents=8-40
    big_blocks=2 middle_blocks=2 small_blocks=2
fi

say() { printf '\n[%d:%02d] %s\n' $((SECONDS / 60)) $((SECONDS % 60)) "$*"; }

# Keeps the line that says why part NAME failed.
why() {
    { grep -m1 -E '^error|panicked' "$out/$1.txt" || tail -n 1 "$out/$1.txt"; } | cut -c1-150 >"$out/$1.failed"
}

# Seconds a part may take that begins now.
left() {
    local left=$((limit + 60 - SECONDS))
    echo $((left < most ? left : most))
}
most=120

# part NAME command...: runs it if there is time; what it says goes to NAME.txt and to the screen.
part() {
    local name=$1 seconds
    shift
    if ((SECONDS > limit)); then
        say "$name: no time left"
        echo "no time left" >"$out/$name.failed"
        return
    fi
    say "$name"
    seconds=$(left)
    timeout "$seconds" "$@" >"$out/$name.txt" 2>&1
    case $? in
        0) ;;
        124) echo "not done in $seconds s" >"$out/$name.failed" ;;
        *) why "$name" ;;
    esac
    cat "$out/$name.txt"
}

# shaped NAME SHAPE BATCH SEQ arguments...: `tune bench` into NAME.json.
shaped() {
    local name=$1 shape=$2 batch=$3 seq=$4
    shift 4
    part "$name" "$tune" bench --shape "$shape" --batch "$batch" --seq "$seq" --device "$device" --dtype bf16 \
        --json "$out/$name.json" "$@"
}

# compare NAME MODES: the peers on what NAME measured, into NAME-peers.json.
compare() {
    if [[ ! -f $out/$1.json ]]; then return; fi
    part "$1-peers" python3 "$here/bench_peers.py" "$out/$1.json" --modes "$2" --steps "$peer_steps" --limit 55 \
        --json "$out/$1-peers.json"
}

# The peers, where there is a network; without them their rows say so.
missing=$(python3 -c 'from importlib.util import find_spec as found
print(*(name for name in ("transformers", "peft", "liger-kernel") if not found(name.replace("-", "_"))))')
if [[ -n $missing ]]; then
    # shellcheck disable=SC2086 # a list of names
    timeout 60 python3 -m pip install --quiet --disable-pip-version-check --retries 1 --timeout 10 $missing 2>&1 | tail -n 1
fi

# The same steps on the GPU in bf16, and on the CPU in f32: these all the while, on half of the cores.
curve() {
    local name=$1
    shift
    (
        cd "$here/.." || exit 1
        timeout "$((limit + 60 - SECONDS))" "$@" "$tune" train configs/lora.toml --force --set "model.base=$SMOLLM2" \
            --set "output.dir=$scratch/$name" --set "train.max_steps=$curve_steps" --set train.eval_every=0 \
            --set train.save_every=0 --set train.samples=0 --set data.max_length=256 "${precision[@]}"
        cp "$scratch/$name/metrics.jsonl" "$out/$name.jsonl"
    ) >"$out/$name.txt" 2>&1 || why "$name"
}
if [[ -n ${SMOLLM2:-} ]]; then
    SMOLLM2=$(cd "$SMOLLM2" && pwd)
    cores=$(nproc)
    precision=(--set device=cpu --set model.dtype=f32)
    curve curve-cpu taskset -c "$((cores / 2))-$((cores - 1))" &
fi

part machine sh -c 'nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader || true; nproc
    python3 -c "import torch; print(\"torch\", torch.__version__)"'
part doctor "$tune" doctor --device "$device"

# The three shapes, nothing recomputed.
shaped 8b "$big" "${big_rows[@]}" --steps "$steps" --keep-blocks "$big_blocks"
shaped 1b "$middle" "${middle_rows[@]}" --steps "$steps" --keep-blocks "$middle_blocks"
shaped 135m "$small" "${small_rows[@]}" --steps "$((3 * steps))" --keep-blocks "$small_blocks"

# NF4: what it costs, and the longest context of a 24 GiB card.
shaped nf4 "$big" "${nf4_rows[@]}" --steps "$steps" --quantize nf4 --memory "$ten_gib"
kept=$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["report"]["kept_blocks"])' "$out/nf4.json" 2>/dev/null || echo 0)
shaped nf4-as-bf16 "$big" "${nf4_rows[@]}" --steps "$steps" --keep-blocks "$kept"
most=200 shaped nf4-long "$big" 1 "$long" --steps 1 --warm-up 1 --by-op 0 --quantize nf4 --memory "$twenty_four_gib"

# Packed documents against the same ones padded; one more setting for the planner.
shaped packed "$middle" "${middle_rows[@]}" --steps "$steps" --by-op 0 --packed "$documents"
shaped padded "$middle" "${middle_rows[@]}" --steps "$steps" --by-op 0 --padded "$documents"
shaped recomputed "$middle" "${middle_rows[@]}" --steps "$steps" --by-op 0 --keep-blocks 0

# From the start of the program to the first step, with the weights in the page cache.
start_from_files() {
    timeout "$(left)" python3 "$here/make_random_base.py" "$out/8b.json" "$scratch/base" || return
    cat >"$scratch/start.toml" <<TOML
device = "$device"
[model]
base = "$scratch/base"
dtype = "bf16"
[data]
train = ["$scratch/base/train.jsonl"]
validation = 0.0
format = "text"
[train]
grad_accumulation = 1
[output]
dir = "$scratch/run"
TOML
    timeout "$(left)" "$tune" bench "$scratch/start.toml" --steps 1 --warm-up 1 --by-op 0 --json "$out/start.json"
}
# A function cannot run under timeout.
if [[ -f $out/8b.json ]] && ((SECONDS <= limit)); then
    say start
    start_from_files >"$out/start.txt" 2>&1 || why start
    cat "$out/start.txt"
    rm -rf "$scratch/base"
fi

# Of the peers those that count; `scripts/bench_peers.py` runs the rest too.
compare 8b peft+checkpointing,peft+liger
compare 1b peft,peft+liger
compare 135m peft

# Decoding: one prompt, and eight together.
for prompts in 1 8; do
    shaped "decoding-$prompts" "$middle" "$prompts" 128 --generate --new-tokens 64
    compare "decoding-$prompts" transformers
done

if [[ -n ${SMOLLM2:-} ]]; then
    part generate python3 "$here/bench_generate.py" --model "$SMOLLM2" --tune "$tune" --devices "$device" --dtype bf16
    say curve-gpu
    precision=(--set "device=$device" --set model.dtype=bf16)
    curve curve-gpu env
    say "curve-cpu: waiting for its end"
    wait
fi

say results
python3 "$here/bench_gpu_report.py" "$out"
say "all of it is in $out"
