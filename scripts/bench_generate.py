"""Greedy decoding, eight prompts of unequal length together: `tune generate` beside transformers' `generate`.

    python scripts/bench_generate.py --model DIR --device libtorch --dtype bf16

Both sides load the same folder, get the same raw prompts and make --tokens tokens each unless they stop earlier; loading
is not counted. Turn by turn, medians over rounds. Prints a Markdown table, and how many answers are equal.
"""

import argparse
import json
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench import ROOT, words


def tune(args, prompts):
    """Answers and tokens a second."""
    command = [args.tune, "generate", "--base", args.model, "--prompts", prompts, "--raw", "--json"]
    command += ["--batch-size", "8", "--max-new-tokens", args.tokens, "--device", args.device, "--dtype", args.dtype]
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    rate = float(re.search(r"\(([\d.,]+) tokens/s\)", done.stderr)[1].replace(",", ""))
    return [json.loads(line)["tokens"] for line in done.stdout.splitlines()], rate


def transformers_side(args):
    """A function that answers all prompts and gives the same."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    dtype = torch.bfloat16 if args.dtype == "bf16" else torch.float32
    tokenizer = AutoTokenizer.from_pretrained(args.model, padding_side="left")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=dtype).eval()

    @torch.no_grad()
    def answer(prompts):
        inputs = tokenizer(prompts, return_tensors="pt", padding=True)
        began = time.perf_counter()
        rows = model.generate(**inputs, max_new_tokens=args.tokens, do_sample=False)[:, inputs["input_ids"].shape[1]:]
        seconds = time.perf_counter() - began
        ends = {model.generation_config.eos_token_id, tokenizer.eos_token_id}
        answers = []
        for row in rows.tolist():
            end = next((i for i, token in enumerate(row) if token in ends), len(row))
            answers.append(row[:end])
        return answers, sum(map(len, answers)) / seconds

    return answer


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=lambda p: Path(p).resolve(), required=True)
    parser.add_argument("--tune", type=Path, default=ROOT / "target/release/tune")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=["f32", "bf16"], default="f32")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    rng = random.Random(0)
    prompts = [words(rng, 20 + 6 * i) for i in range(8)]
    peer = transformers_side(args)
    rates = [], []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "prompts.jsonl"
        file.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
        for _ in range(args.rounds):
            ours, rate = tune(args, file)
            rates[0].append(rate)
            theirs, rate = peer(prompts)
            rates[1].append(rate)
    ours_rate, theirs_rate = map(statistics.median, rates)
    equal = sum(a == b for a, b in zip(ours, theirs))
    print("| what | tune | transformers | ratio |\n|---|---:|---:|---:|")
    print(f"| tokens/s, 8 together, {args.dtype} | {ours_rate:.4g} | {theirs_rate:.4g} | {ours_rate / theirs_rate:.2f}× |")
    print(f"{equal} of {len(prompts)} answers equal", file=sys.stderr)


if __name__ == "__main__":
    main()
