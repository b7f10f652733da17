"""PEFT on what `tune bench --json` measured: same shapes, same device, random weights, one table with ratios.

    tune bench --shape llama-1b --batch 4 --seq 2048 --json ours.json
    python scripts/bench_peers.py ours.json [more.json ...] [--modes peft,peft+checkpointing] [--json peers.json]

Training: r as ours on all linears, SDPA, fused AdamW, every token learned, autocast where the base is bf16; median over
the steps after two. Decoding (`tune bench --generate`): transformers' `generate`. Each peer runs in a process of its own,
so that one that runs out of memory does not end the others. Ran with torch 2.11, transformers 5.23, peft 0.21.2,
liger-kernel 0.8.5.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

TRAINING = ["peft", "peft+checkpointing", "peft+liger", "peft+liger+checkpointing"]
DECODING = ["transformers"]


def device_of(workload):
    return "cuda" if "cuda" in workload["report"]["device"].lower() else "cpu"


def model_of(workload, device, mode):
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    if "liger" in mode:
        from liger_kernel.transformers import apply_liger_kernel_to_llama

        apply_liger_kernel_to_llama(
            rope=True, swiglu=True, rms_norm=True, fused_linear_cross_entropy=True, cross_entropy=False
        )
    config = AutoConfig.for_model(**workload["config"], attn_implementation="sdpa")
    torch.set_default_dtype(torch.bfloat16 if workload["precision"]["compute"] == "BF16" else torch.float32)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config)
    torch.set_default_dtype(torch.float32)
    return model


def ids_of(workload, device):
    import torch

    batch, seq = workload["batch"], workload["seq"]
    ids = torch.arange(batch * seq, device=device) * 7919 % workload["config"]["vocab_size"]
    return ids.view(batch, seq)


def waiter(device):
    import torch

    return torch.cuda.synchronize if device == "cuda" else (lambda: None)


def peak_bytes(device):
    import torch

    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))


def train(workload, mode, steps):
    import torch
    from peft import LoraConfig, get_peft_model

    device = device_of(workload)
    bf16 = workload["precision"]["compute"] == "BF16"
    model = model_of(workload, device, mode)
    model.config.use_cache = False
    r = workload["lora"]
    lora = LoraConfig(r=r, lora_alpha=2 * r, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(model, lora).train()
    if "checkpointing" in mode:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    params = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(params, lr=1e-4, fused=True)
    ids, wait, seconds = ids_of(workload, device), waiter(device), []
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    for _ in range(steps + 2):
        wait()
        began = time.perf_counter()
        with torch.autocast(device, dtype=torch.bfloat16, enabled=bf16):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss.item(), wait()
        seconds.append(time.perf_counter() - began)
    return dict(tokens_per_second=ids.numel() / statistics.median(seconds[2:]), peak_bytes=peak_bytes(device))


def decode(workload, rounds=3):
    import torch

    device, report = device_of(workload), workload["report"]
    model = model_of(workload, device, "").eval()
    ids, wait, rates, new = ids_of(workload, device), waiter(device), [], report["new_tokens"]
    for _ in range(rounds + 1):
        with torch.inference_mode():
            took = []
            # The first token is taken off, as in ours.
            for tokens in (1, new):
                wait()
                began = time.perf_counter()
                model.generate(
                    ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=tokens,
                    min_new_tokens=tokens, pad_token_id=0,
                )
                wait()
                took.append(time.perf_counter() - began)
        rates.append(len(ids) * (new - 1) / max(took[1] - took[0], 1e-9))
    return dict(tokens_per_second=statistics.median(rates[1:]), peak_bytes=peak_bytes(device))


def one(args):
    """In a process of its own: one peer on one workload, as a line of JSON."""
    workload = json.loads(Path(args.workloads[0]).read_text())
    try:
        got = decode(workload) if args.one == "transformers" else train(workload, args.one, args.steps)
    except ImportError as error:
        got = dict(failed=f"not installed: {error.name}")
    except RuntimeError as error:
        got = dict(failed="out of memory" if "out of memory" in str(error) else str(error).splitlines()[0][:120])
    print(json.dumps(got))


def run(path, mode, args):
    command = [sys.executable, __file__, path, "--one", mode, "--steps", args.steps]
    try:
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=args.limit)
    except subprocess.TimeoutExpired:
        return dict(failed=f"not done in {args.limit} s")
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        return dict(failed=(done.stderr.strip().splitlines() or ["ended without a word"])[-1][:120])
    return json.loads(lines[-1])


def table(results):
    """Markdown; ratios of ours to each peer."""
    lines = ["| what | who | tokens/s | ours is | peak GiB |", "|---|---|---:|---:|---:|"]
    for result in results:
        ours = result["ours"]
        lines.append(f"| {result['what']} | tune | {ours['tokens_per_second']:,.0f} | | {gib(ours)} |")
        for mode, peer in result["peers"].items():
            if "failed" in peer:
                lines.append(f"| | {mode} | {peer['failed']} | | |")
            else:
                ratio = ours["tokens_per_second"] / peer["tokens_per_second"]
                lines.append(f"| | {mode} | {peer['tokens_per_second']:,.0f} | {ratio:.2f}× | {gib(peer)} |")
    return "\n".join(lines)


def gib(side):
    return f"{side['peak_bytes'] / 2**30:.1f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workloads", nargs="+", type=Path, help="what `tune bench --shape … --json` wrote")
    parser.add_argument("--modes", default="all", help=f"comma-separated, of {', '.join(TRAINING + DECODING)}")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--limit", type=float, default=90, help="seconds for one peer")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        return one(args)
    results = []
    for path in args.workloads:
        workload = json.loads(path.read_text())
        report, training = workload["report"], workload["what"] == "train"
        modes = TRAINING if training else DECODING
        if args.modes != "all":
            modes = [mode for mode in modes if mode in args.modes.split(",")]
        rate = report["tokens_per_second" if training else "new_tokens_per_second"]["median"]
        what = f"{workload['shape']}, {workload['batch']} × {workload['seq']}" + ("" if training else ", decoding")
        ours = dict(tokens_per_second=rate, peak_bytes=report["measured_bytes"])
        peers = {}
        for mode in modes:
            print(f"{what}: {mode}", file=sys.stderr)
            peers[mode] = run(path, mode, args)
        results.append(dict(what=what, device=device_of(workload), ours=ours, peers=peers))
    print(table(results))
    if args.json:
        args.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
