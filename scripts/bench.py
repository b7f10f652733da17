"""tune and PEFT side by side on this machine: training speed, start, memory, tokenization.

    pip install -r scripts/requirements.txt
    cargo build --release
    python scripts/bench.py --model DIR            # SmolLM2-135M as a Hugging Face folder; about 6 minutes

Both sides train on the same rows, one of 512 tokens a step (r 16 all-linear, no accumulation), turn by turn
so that noise hits both; medians over runs and steps. Nothing else may use the cores meanwhile: torch's threads wait
by spinning, and lose several times their speed. Prints a Markdown table.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tokenizers import Tokenizer

ROOT = Path(__file__).resolve().parent.parent
LENGTH = 512
TEXT, CHAT = "all tokens learned", "prompt/response, 40 % learned"
WORDS = (
    "the of and to in is it that was for on are with as they be at one have this from or had by hot but some what "
    "there we can out other were all your when up use word how said each she which do their time if will way about "
    "many then them would write like so these her long make thing see him two has look more day could go come did "
    "my sound no most number who over know water than call first people may down side been now find any new work part"
).split()


def words(rng, count):
    return " ".join(rng.choice(WORDS) for _ in range(count))


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def chat_rows(rng, tokenizer, count):
    """Rows just under LENGTH tokens with SmolLM2's template (31 of its own), so that neither side cuts any."""
    share, room = 0.42, LENGTH - 32
    prompt, response = int(room * (1 - share)), int(room * share)
    rows = [dict(prompt=words(rng, prompt), response=words(rng, response)) for _ in range(count)]
    assert all(len(tokenizer.encode(r["prompt"] + r["response"])) <= room for r in rows), "a word is several tokens"
    return rows


def config(folder, model, dtype, data, kind, steps):
    """A config for `tune train` with everything off that PEFT's side doesn't do."""
    run = folder / "run"
    path = folder / "bench.toml"
    path.write_text(f"""
[model]
dtype = "{dtype}"
base = {json.dumps(str(model))}
[data]
train = [{json.dumps(str(data))}]
validation = 0.0
format = "{kind}"
max_length = {LENGTH}
packing = false
too_long = "cut"
cache = {"true" if steps else "false"}
[lora]
r = 16
alpha = 32
[train]
max_steps = {max(steps, 1)}
batch_size = 1
grad_accumulation = 1
schedule = "constant"
warmup_ratio = 0.0
eval_every = 0
save_every = 0
samples = 0
[output]
dir = {json.dumps(str(run))}
tensorboard = false
""")
    return path, run


def run(command):
    """A command's stdout, seconds and peak memory (one ruler for both sides); stops the benchmark if it fails."""
    began = time.perf_counter()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = subprocess.Popen([str(c) for c in command], stdout=out, stderr=err)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - began
        out.seek(0), err.seek(0)
        if child.returncode:
            sys.exit(f"{' '.join(map(str, command))}\n{err.read().decode()[-2000:]}")
        return out.read().decode(), seconds, usage.ru_maxrss * 1024


def train_tune(args, data, kind):
    with tempfile.TemporaryDirectory() as folder:
        path, run_dir = config(Path(folder), args.model, args.dtype, data, kind, args.steps)
        _, _, peak = run([args.tune, "train", path])
        lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "tokens_per_second" in line]
    start = next(line["seconds_to_first_step"] for line in lines if line.get("event") == "start")
    rate = statistics.median(s["tokens_per_second"] for s in steps[1:])
    return dict(rate=rate, start=start, peak=peak, learned=steps[-1]["learned_tokens"] / steps[-1]["tokens"])


def train_peft(args, data):
    command = [sys.executable, ROOT / "scripts/bench_peft.py", "train", "--model", args.model, "--data", data]
    out, _, peak = run([*command, "--max-length", LENGTH, "--steps", args.steps])
    got = json.loads(out)
    return dict(
        rate=got["tokens_per_second"], start=got["seconds_to_first_step"], peak=peak,
        learned=got["learned"] / got["tokens"],
    )


def median(results, key):
    return statistics.median(r[key] for r in results)


def tokenize_tune(args, folder, rows):
    """Records a second of planning a run without the token cache, less what a plan of one record takes."""
    seconds = []
    for some in (rows, rows[:1]):
        data = write_rows(folder / "tokenize.jsonl", some)
        path, _ = config(folder, args.model, args.dtype, data, "prompt-response", steps=0)
        seconds.append(min(run([args.tune, "train", path, "--dry-run"])[1] for _ in range(2)))
    return len(rows) / (seconds[0] - seconds[1])


def tokenize_peft(args, folder, rows):
    data = write_rows(folder / "tokenize.jsonl", rows)
    out, _, _ = run([sys.executable, ROOT / "scripts/bench_peft.py", "tokenize", "--model", args.model, "--data", data])
    return json.loads(out)["records_per_second"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=lambda p: Path(p).resolve(), required=True)
    parser.add_argument("--tune", type=Path, default=ROOT / "target/release/tune")
    parser.add_argument("--dtype", default="auto", help="model.dtype of tune's side; PEFT's is f32")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--records", type=int, default=20000, help="rows of the tokenization part")
    args = parser.parse_args()
    tokenizer = Tokenizer.from_file(str(args.model / "tokenizer.json"))
    rng = random.Random(0)
    table = []
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        # Text is longer than LENGTH, so that both sides cut it to LENGTH whatever special tokens they add.
        texts = [dict(text=words(rng, LENGTH + 90)) for _ in range(args.steps)]
        sets = {
            TEXT: ("text", write_rows(folder / "text.jsonl", texts), 1.0),
            CHAT: (
                "prompt-response",
                write_rows(folder / "chat.jsonl", chat_rows(rng, tokenizer, args.steps)),
                1.2,
            ),
        }
        for name, (kind, data, goal) in sets.items():
            tune, peft = [], []
            for turn in range(args.rounds):
                print(f"{name}: round {turn + 1} of {args.rounds}", file=sys.stderr)
                tune.append(train_tune(args, data, kind))
                peft.append(train_peft(args, data))
            learned = [f"{median(side, 'learned'):.1%}" for side in (tune, peft)]
            print(f"{name}: learned share {learned[0]} of tune's tokens, {learned[1]} of PEFT's", file=sys.stderr)
            rates = median(tune, "rate"), median(peft, "rate")
            table.append((f"tokens/s, {name}", *rates, rates[0] / rates[1], f"≥ {goal:.1f}×"))
            if name == TEXT:
                # The best start: the first one still fills the token cache and the page cache.
                starts = [min(r["start"] for r in side) for side in (tune, peft)]
                peaks = [median(side, "peak") / 1e9 for side in (tune, peft)]
                slow = [("start to first step, s", *starts, starts[0] / starts[1], "≤ 0.20×"),
                        ("peak memory, GB", *peaks, peaks[0] / peaks[1], "≤ 0.50×")]
        rows = [dict(prompt=words(rng, 60), response=words(rng, 90)) for _ in range(args.records)]
        print("tokenization", file=sys.stderr)
        rates = tokenize_tune(args, folder, rows), tokenize_peft(args, folder, rows)
        table += [*slow, ("tokenization, records/s", *rates, rates[0] / rates[1], "≥ 3.0×")]
    print("| what | tune | PEFT | ratio | goal |\n|---|---:|---:|---:|---|")
    for what, ours, theirs, ratio, goal in table:
        print(f"| {what} | {ours:.4g} | {theirs:.4g} | {ratio:.2f}× | {goal} |")


if __name__ == "__main__":
    main()
