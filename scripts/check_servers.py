"""Loads what `tune export` wrote in mistral.rs and llama.cpp, and compares their log-probabilities with tune's own.

    python3 -m venv .servers && .servers/bin/pip install mistralrs==0.9.5 xllamacpp==2026.10.11549
    .servers/bin/python scripts/check_servers.py --tune target/release/tune --base MODEL.gguf --adapter RUN/adapter

(`scripts/check_servers.sh` does all of that, training included.) From the one adapter it makes two more, with rsLoRA and with
alphas by module, and exports each in every form. Both servers answer chat prompts greedily; at each token the
log-probabilities of the likeliest ones must be those of `tune generate`: within 1e-3 in mistral.rs (f32), within 0.05 in
llama.cpp, which computes in its own order. On BF16 and Q8_0 llama.cpp also rounds what it multiplies the weights by, so these
files are judged by tune reading the same file, with a wider bound. A check counts only where the adapter moves the
log-probabilities by more than twice its bound. In llama.cpp the same is done with the tiny models of tests/goldens/gguf, one a
family, and an adapter on each (these alone without --base). Exit code 1 if one fails. No torch.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import tiny_families as tiny

# Before the import: keys and values in f32 on the CPU, and no look at the hub.
os.environ |= {"MISTRALRS_CPU_KV_F32": "1", "HF_HUB_OFFLINE": "1", "RUST_LOG": "error"}

PROMPTS = ["What is the capital of France?", "Say 'déjà vu' 3 times.\n\tThen count to 12.", "def f(x):"]
TOKENS, TOP = 4, 8
MISTRAL_BOUND = 1e-3
LLAMA_BOUND = {"f32": 0.05, "f16": 0.05, "bf16": 0.2, "q8_0": 0.8}
ROUNDED = ("bf16", "q8_0")


def run(*command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stderr}")
    return done.stdout


class Tune:
    def __init__(self, program, base, scratch):
        self.program, self.base, self.scratch = program, base, scratch
        self.prompts = scratch / "prompts.jsonl"
        self.prompts.write_text("".join(json.dumps({"prompt": p}) + "\n" for p in PROMPTS), encoding="utf-8")

    def answers(self, base, adapter=None):
        """Per prompt: count of its tokens, and per generated token its id and {token: logprob}."""
        command = [self.program, "generate", "--base", base, "--prompts", self.prompts, "--json", "--temperature", 0,
                   "--max-new-tokens", TOKENS, "--logprobs", 4 * TOP, "--device", "cpu"]
        rows = run(*command, *(["--adapter", adapter] if adapter else [])).splitlines()
        return [
            (len(row["prompt_tokens"]), [(step["token"], dict(map(tuple, step["top"]))) for step in row["logprobs"]])
            for row in map(json.loads, rows)
        ]

    def export(self, source, *outputs):
        run(self.program, "export", source, "--base", self.base, *outputs, "--device", "cpu", "--force")


def mistral_answers(folder, adapter=None):
    import mistralrs

    f32 = mistralrs.ModelDType.F32
    if adapter:
        adapters = [mistralrs.LoraAdapter(alias="tuned", source=str(adapter))]
        which = mistralrs.Which.Lora(model_id=str(folder), adapters=adapters, dtype=f32)
    else:
        which = mistralrs.Which.Plain(model_id=str(folder), dtype=f32)
    runner = mistralrs.Runner(which=which)
    ids = token_ids(folder)
    answers = []
    for prompt in PROMPTS:
        asked = mistralrs.ChatCompletionRequest(
            model="default", messages=[{"role": "user", "content": prompt}], max_tokens=TOKENS, temperature=0.0,
            logprobs=True, top_logprobs=TOP, **({"adapter": "tuned"} if adapter else {}),
        )
        answer = runner.send_chat_completion_request(asked)
        steps = [
            {ids(top.token): top.logprob for top in place.top_logprobs} for place in answer.choices[0].logprobs.content
        ]
        answers.append((answer.usage.prompt_tokens, steps))
    return answers


def token_ids(folder):
    """mistral.rs names tokens by their text; those that are no whole character are left out."""
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = tokenizer["model"]["vocab"] | {t["content"]: t["id"] for t in tokenizer["added_tokens"]}
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = {byte: chr(byte) for byte in printable}
    letters |= {b: chr(256 + n) for n, b in enumerate(b for b in range(256) if b not in printable)}
    spelled = lambda text: "".join(letters[byte] for byte in text.encode())
    return lambda token: token if isinstance(token, int) else vocabulary.get(spelled(token), vocabulary.get(token))


def llama_answers(model, lora=None, **more):
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(model)
    params.n_ctx, params.n_parallel, params.n_gpu_layers, params.warmup, params.verbosity = 512, 1, 0, False, -1
    # Its threads wait for each other busily: on a machine with other work two are ten times slower than one.
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    if lora:
        params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(lora), 1.0)]
    server = xllamacpp.Server(params)
    answers = []
    for prompt in PROMPTS:
        asked = {
            "messages": [{"role": "user", "content": prompt}], "max_tokens": TOKENS, "temperature": 0.0,
            "logprobs": True, "top_logprobs": TOP, "cache_prompt": False,
        } | more
        answer = server.handle_chat_completions(asked)
        steps = [
            {top["id"]: top["logprob"] for top in place["top_logprobs"]}
            for place in answer["choices"][0]["logprobs"]["content"]
        ]
        answers.append((answer["usage"]["prompt_tokens"], steps))
    return answers


def difference(wanted, found):
    """Largest |Δ log-probability| of tokens that both list, up to where the answers part; and places compared."""
    worst, places = 0.0, 0
    for (length, steps), (found_length, found_steps) in zip(wanted, found, strict=True):
        if length != found_length:
            sys.exit(f"a prompt has {length} tokens in tune and {found_length} in the server")
        for (token, ours), theirs in zip(steps, found_steps):
            both = [(ours[id], theirs[id]) for id in theirs if id in ours]
            if len(both) < TOP // 2:
                return math.inf, places
            worst = max(worst, *(abs(a - b) for a, b in both))
            places += 1
            if token != max(theirs, key=lambda id: (theirs[id], id == token)):
                break
    return worst, places


class Report:
    def __init__(self):
        self.failed = False
        print(f"{'adapter':9} {'form':26} {'server':11} {'largest Δ logprob':>18} {'bound':>7} {'places':>6}  result")

    def row(self, adapter, form, server, wanted, found, bound, plain):
        worst, places = difference(wanted, found)
        # A server that ignored the adapter would be this far off.
        effect = difference(plain, [(n, [top for _, top in steps]) for n, steps in wanted])[0] if plain else math.inf
        # Not `worst > bound`: NaN has to fail.
        ok = worst <= bound and places >= len(PROMPTS) and effect > 2 * bound
        self.failed |= not ok
        why = "" if effect > 2 * bound else f" (the adapter itself moves only {effect:.2g})"
        print(f"{adapter:9} {form:26} {server:11} {worst:18.5f} {bound:7.3f} {places:6}  {'ok' if ok else 'FAILED'}{why}",
              flush=True)


def variants(adapter, scratch):
    """The adapter, and two with the same weights under configs that llama.cpp by itself would misread."""
    made = {"plain": adapter}
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    changes = {"rslora": {"use_rslora": True}, "alphas": {"alpha_pattern": {"q_proj": 40, "down_proj": 3.5}}}
    for name, change in changes.items():
        made[name] = scratch / f"adapter-{name}"
        made[name].mkdir()
        (made[name] / "adapter_config.json").write_text(json.dumps(config | change), encoding="utf-8")
        (made[name] / "adapter_model.safetensors").write_bytes((adapter / "adapter_model.safetensors").read_bytes())
    return made


def check_families(program, report, scratch):
    for name in tiny.CASES:
        golden, at = Path(__file__).resolve().parent.parent / "tests/goldens/gguf" / name, lambda file: scratch / f"{name}-{file}"
        base, adapter = tiny.base(golden, at("base")), tiny.adapter(golden, at("adapter"))
        tune = Tune(program, base, scratch)
        plain, tuned = tune.answers(base), tune.answers(base, adapter)
        run(program, "export", base, "--gguf", at("base.gguf"), "--gguf-type", "f32", "--device", "cpu")
        tune.export(adapter, "--gguf", at("tuned.gguf"), "--gguf-type", "f32", "--gguf-lora", at("lora.gguf"))
        # The server lists whole characters, of which random models say few: it is made to say one, and the log-probabilities
        # are those before that.
        letter = json.loads((base / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]["a"]
        asked = dict(max_tokens=1, logit_bias=[[letter, 1000.0]])
        answers = lambda model, lora=None: llama_answers(model, lora, **asked)
        bound = LLAMA_BOUND["f32"]
        report.row(name, "none: gguf f32", "llama.cpp", plain, answers(at("base.gguf")), bound, None)
        report.row(name, "gguf-lora on gguf f32", "llama.cpp", tuned, answers(at("base.gguf"), at("lora.gguf")), bound, plain)
        report.row(name, "gguf f32", "llama.cpp", tuned, answers(at("tuned.gguf")), bound, plain)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tune", required=True, type=Path)
    parser.add_argument("--base", type=Path, help="GGUF file or folder the adapter was trained on")
    parser.add_argument("--adapter", type=Path)
    args = parser.parse_args()
    if (args.base is None) != (args.adapter is None):
        parser.error("--base and --adapter go together")
    report = Report()
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        check_families(args.tune, report, scratch)
        if args.base is None:
            sys.exit(report.failed)
        tune = Tune(args.tune, args.base, scratch)
        folder, gguf = scratch / "base", scratch / "base.gguf"
        run(args.tune, "export", args.base, "--merged", folder, "--gguf", gguf, "--dtype", "f32", "--device", "cpu")
        plain = tune.answers(args.base)
        report.row("none", "merged f32", "mistral.rs", plain, mistral_answers(folder), MISTRAL_BOUND, None)
        report.row("none", "gguf f32", "llama.cpp", plain, llama_answers(gguf), LLAMA_BOUND["f32"], None)
        for name, adapter in variants(args.adapter, scratch).items():
            at = lambda file: scratch / f"{name}-{file}"
            wanted = tune.answers(args.base, adapter)
            tune.export(adapter, "--adapter", at("portable"), "--profile", "portable", "--gguf-lora", at("lora.gguf"))
            for form, found in (("peft", adapter), ("portable", at("portable"))):
                answers = mistral_answers(folder, found)
                report.row(name, form, "mistral.rs", wanted, answers, MISTRAL_BOUND, plain)
            answers = llama_answers(gguf, at("lora.gguf"))
            report.row(name, "gguf-lora on gguf f32", "llama.cpp", wanted, answers, LLAMA_BOUND["f32"], plain)
            if name != "plain":
                continue
            tune.export(adapter, "--merged", at("merged"))
            report.row(name, "merged f32", "mistral.rs", wanted, mistral_answers(at("merged")), MISTRAL_BOUND, plain)
            for dtype, bound in LLAMA_BOUND.items():
                tune.export(adapter, "--gguf", at("model.gguf"), "--gguf-type", dtype)
                judge = tune.answers(at("model.gguf")) if dtype in ROUNDED else wanted
                report.row(name, f"gguf {dtype}", "llama.cpp", judge, llama_answers(at("model.gguf")), bound, plain)
    sys.exit(report.failed)


if __name__ == "__main__":
    main()
