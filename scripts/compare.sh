#!/usr/bin/env bash
# Base, RAG, fine-tuned and hybrid answers of one small model, side by side: configs/support/config.toml from index to verdict.
#
#   scripts/compare.sh [--quick] [BASE [EMBEDDER]]
#
# BASE and EMBEDDER are folders, hub ids or (BASE alone) a .gguf file; by default those of the config. TUNE is the program
# (target/release/tune). --quick trains less and asks 60 questions.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
tune=${TUNE:-target/release/tune}
config=configs/support/config.toml
set=() train=() eval=()
if [[ ${1:-} == --quick ]]; then
    shift
    train+=(--set train.max_steps=40 --set train.eval_every=0)
    mkdir -p runs
    # Every fourth question: all strata in their shares.
    awk 'NR % 4 == 1' datasets/support/questions.jsonl >runs/support-quick.jsonl
    eval+=(--set eval.questions=runs/support-quick.jsonl)
fi
if [[ -n ${1:-} ]]; then set+=(--set "model.base=$1"); fi
if [[ -n ${2:-} ]]; then set+=(--set "rag.embedder=$2"); fi

step() { printf '\n[%02d:%02d] %s\n' $((SECONDS / 60)) $((SECONDS % 60)) "$*"; }

step "Indexing the documents"
"$tune" index $config "${set[@]}"
step "Training the fine-tuned arm"
"$tune" train $config --force "${set[@]}" "${train[@]}"
step "Making rows for the hybrid arm"
"$tune" data raft $config --questions datasets/support/raft.jsonl --out runs/support-raft.jsonl "${set[@]}"
step "Training the hybrid arm"
"$tune" train $config --force "${set[@]}" "${train[@]}" --set data.train=runs/support-raft.jsonl \
    --set train.epochs=1 --set output.dir=runs/support-hybrid
step "Asking all arms"
code=0
"$tune" eval $config "${set[@]}" "${eval[@]}" || code=$?
if ((code == 1 || code == 2)); then exit $code; fi
step "What to do about it (the verdict's exit code was $code)"
"$tune" advise runs/support-eval
