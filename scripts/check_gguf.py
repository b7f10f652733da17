"""Greedy answers from a GGUF: tune against transformers on the same dequantized weights, which must agree token by token.

    pip install -r scripts/requirements.txt
    python scripts/check_gguf.py models/SmolLM2-135M-Instruct.Q4_1.gguf

Five prompts, 64 tokens each. Exit code 1 where they differ.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from check_export import load_gguf

PROMPTS = [
    "Write a haiku about the sea.",
    "What is the capital of France, and what is it known for?",
    "Explain in one paragraph why the sky is blue.",
    "List three uses of a paper clip.",
    "Translate to French: The cat sleeps on the chair.",
]
NEW_TOKENS = 64


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gguf", type=Path)
    parser.add_argument("--tune", default="target/release/tune")
    args = parser.parse_args()

    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as prompts:
        prompts.writelines(json.dumps({"prompt": p}) + "\n" for p in PROMPTS)
        prompts.flush()
        command = [args.tune, "generate", "--base", args.gguf, "--prompts", prompts.name, "--json"]
        out = subprocess.run(
            [*map(str, command), "--max-new-tokens", str(NEW_TOKENS)], check=True, capture_output=True, text=True
        ).stdout
    rows = [json.loads(line) for line in out.splitlines()]
    assert len(rows) == len(PROMPTS), rows

    model = load_gguf(args.gguf).eval()
    equal = 0
    for row in rows:
        ids = torch.tensor([row["prompt_tokens"]])
        with torch.no_grad():
            answer = model.generate(ids, max_new_tokens=NEW_TOKENS, do_sample=False, eos_token_id=2, pad_token_id=2)
        wanted = answer[0, ids.shape[1]:].tolist()
        wanted = wanted[: wanted.index(2)] if 2 in wanted else wanted
        same = row["tokens"] == wanted
        equal += same
        print(f"{'equal' if same else 'DIFFERENT'}  {len(wanted)} tokens  {row['text'][:70]!r}")
    print(f"{equal} of {len(PROMPTS)} answers equal, token by token")
    sys.exit(equal != len(PROMPTS))


if __name__ == "__main__":
    main()
