"""Greedy decoding of eight prompts of unequal length, one by one and all together: `tune generate` beside transformers'
`generate`.

    python scripts/bench_generate.py --model DIR --devices cpu,libtorch
    python scripts/bench_generate.py --model DIR --devices cuda:0 --dtype bf16

All load the same folder, get the same raw prompts and make --tokens tokens each unless they stop earlier; loading is not
counted. Turn by turn, medians over rounds. Prints a Markdown table with ratios to transformers, and how many answers are equal.
Ran with torch 2.11, transformers 5.23.
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


def tune(args, device, batch, prompts):
    """Answers and tokens a second."""
    command = [args.tune, "generate", "--base", args.model, "--prompts", prompts, "--raw", "--json", "--quantize", args.quantize]
    command += ["--batch-size", batch, "--max-new-tokens", args.tokens, "--device", device, "--dtype", args.dtype]
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    rate = float(re.search(r"\(([\d.,]+) tokens/s\)", done.stderr)[1].replace(",", ""))
    return [json.loads(line)["tokens"] for line in done.stdout.splitlines()], rate


def transformers_side(args):
    """A function that answers all prompts, `batch` together, and gives the same."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    device = next((device for device in args.devices if device.startswith("cuda")), "cpu")
    dtype = torch.bfloat16 if args.dtype == "bf16" else torch.float32
    tokenizer = AutoTokenizer.from_pretrained(args.model, padding_side="left")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=dtype).eval().to(device)
    ends = {model.generation_config.eos_token_id, tokenizer.eos_token_id}

    @torch.no_grad()
    def answer(batch, prompts):
        began, answers = time.perf_counter(), []
        for start in range(0, len(prompts), batch):
            inputs = tokenizer(prompts[start : start + batch], return_tensors="pt", padding=True).to(device)
            rows = model.generate(**inputs, max_new_tokens=args.tokens, do_sample=False)
            for row in rows[:, inputs["input_ids"].shape[1] :].tolist():
                end = next((i for i, token in enumerate(row) if token in ends), len(row))
                answers.append(row[:end])
        return answers, sum(map(len, answers)) / (time.perf_counter() - began)

    answer(len(args.prompts), args.prompts[:1])  # warms up
    return answer


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=lambda p: Path(p).resolve(), required=True)
    parser.add_argument("--tune", type=Path, default=ROOT / "target/release/tune")
    parser.add_argument("--devices", type=lambda s: s.split(","), default=["cpu"], help="of tune, comma-separated")
    parser.add_argument("--dtype", choices=["f32", "bf16"], default="f32")
    parser.add_argument("--quantize", choices=["none", "nf4", "int8"], default="none", help="tune's side alone")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    rng = random.Random(0)
    args.prompts = [words(rng, 20 + 6 * i) for i in range(8)]
    peer, ratio = transformers_side(args), lambda ours, theirs: f"{ours:.4g} ({ours / theirs:.2f}×)"
    lines, equal = [], []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "prompts.jsonl"
        file.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in args.prompts))
        for batch in (1, len(args.prompts)):
            rates, answers = {}, {}
            for _ in range(args.rounds):
                for device in args.devices:
                    answers[device], rate = tune(args, device, batch, file)
                    rates.setdefault(device, []).append(rate)
                answers["transformers"], rate = peer(batch, args.prompts)
                rates.setdefault("transformers", []).append(rate)
            median = {who: statistics.median(found) for who, found in rates.items()}
            theirs = median.pop("transformers")
            lines.append(f"| {batch} | {' | '.join(ratio(ours, theirs) for ours in median.values())} | {theirs:.4g} |")
            for device in args.devices:
                same = sum(a == b for a, b in zip(answers[device], answers["transformers"]))
                equal.append(f"{same} of {len(args.prompts)} answers equal, {batch} together on {device}")
    weights = args.dtype + ("" if args.quantize == "none" else f", tune's in {args.quantize}")
    print(f"| together, {weights}, tokens/s | {' | '.join(f'tune {d}' for d in args.devices)} | transformers |")
    print("|---|" + "---:|" * (len(args.devices) + 1))
    print("\n".join(lines))
    print("\n".join(equal), file=sys.stderr)


if __name__ == "__main__":
    main()
