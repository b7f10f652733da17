"""The peer's side of the benchmark: LoRA training with peft on torch CPU, or tokenization with datasets.map.

    python scripts/bench_peft.py train --model DIR --data FILE.jsonl --steps 8
    python scripts/bench_peft.py tokenize --model DIR --data FILE.jsonl

Rows are {"text"} (every token learned) or {"prompt", "response"} (chat template, the answer learned). Prints one JSON
object. `train`: r 16 all-linear, alpha 32, AdamW, clip 1.0, one row of at most --max-length tokens a step, all cores;
median over the steps after the first. With `--dtype bf16` the adapters stay f32 and the step runs under autocast, as
transformers' Trainer does it. `scripts/bench.py` runs it beside `tune`.
"""

import argparse
import json
import os
import statistics
import time

CORES = len(os.sched_getaffinity(0))


def chat(row):
    return [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["response"]}]


def encode(tokenizer, rows, max_length):
    """Token ids and labels of a batch of rows; -100 where nothing is learned."""
    if "text" in rows[0]:
        ids = [i[:max_length] for i in tokenizer([r["text"] for r in rows])["input_ids"]]
        return {"input_ids": ids, "labels": ids}
    chats = [chat(r) for r in rows]
    template = lambda chats, **kw: tokenizer.apply_chat_template(chats, tokenize=False, **kw)
    plain = lambda texts: tokenizer(texts, add_special_tokens=False)["input_ids"]
    ids = plain(template(chats))
    prompts = plain(template([c[:1] for c in chats], add_generation_prompt=True))
    labels = [[-100] * len(p) + i[len(p):] for p, i in zip(prompts, ids)]
    return {"input_ids": [i[:max_length] for i in ids], "labels": [l[:max_length] for l in labels]}


def peak_bytes():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))


def train(args):
    import peft
    import psutil
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(CORES)
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    with open(args.data, encoding="utf-8") as file:
        batches = encode(tokenizer, [json.loads(line) for line in file], args.max_length)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=getattr(torch, args.base))
    lora = peft.LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    model = peft.get_peft_model(model, lora).train()
    params = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(params, lr=2e-4)
    start = time.time() - psutil.Process().create_time()

    rates, losses = [], []
    for step in range(args.steps):
        row = step % len(batches["input_ids"])
        ids, labels = (torch.tensor([batches[k][row]]) for k in ("input_ids", "labels"))
        began = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=args.dtype == "bf16"):
            loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        rates.append(ids.numel() / (time.perf_counter() - began))
    return dict(
        tokens_per_second=statistics.median(rates[1:]), peak_bytes=peak_bytes(), seconds_to_first_step=start,
        tokens=sum(map(len, batches["input_ids"])), loss=losses[0], threads=torch.get_num_threads(),
        learned=sum(l != -100 for labels in batches["labels"] for l in labels[1:]),
        torch=torch.__version__, peft=peft.__version__,
    )


def tokenize(args):
    """Seconds of `map` alone: neither the imports nor reading the file. The better of processes and threads."""
    from datasets import Dataset, disable_progress_bars
    from transformers import AutoTokenizer

    disable_progress_bars()
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    with open(args.data, encoding="utf-8") as file:
        data = Dataset.from_list([json.loads(line) for line in file])

    def batch(columns):
        return encode(tokenizer, [dict(zip(columns, row)) for row in zip(*columns.values())], args.max_length)

    seconds = {}
    # Processes first: once its own threads have run, a forked tokenizer refuses to use more.
    for processes in (CORES, None):
        began = time.perf_counter()
        done = data.map(batch, batched=True, num_proc=processes, remove_columns=data.column_names)
        seconds[processes] = time.perf_counter() - began
    best = min(seconds, key=seconds.get)
    tokens = sum(map(len, done["input_ids"]))
    return dict(
        records_per_second=len(data) / seconds[best], tokens_per_second=tokens / seconds[best], num_proc=best,
        seconds=list(seconds.values()), records=len(data), tokens=tokens,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["train", "tokenize"])
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--max-length", type=int, default=512)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--dtype", choices=["f32", "bf16"], default="f32")
    parser.add_argument("--base", choices=["float32", "bfloat16"], default="float32", help="dtype of the frozen weights")
    args = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    print(json.dumps(train(args) if args.what == "train" else tokenize(args)))
