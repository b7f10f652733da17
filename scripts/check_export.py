"""Loads what `tune export` wrote in peft and transformers, and compares their logits with tune's own.

    pip install -r scripts/requirements.txt
    tune export RUN --adapter out/adapter --merged out/merged --verify --logits out/logits.safetensors
    python scripts/check_export.py --base BASE --adapter out/adapter --merged out/merged \
        --logits out/logits.safetensors --prompts heldout.jsonl

BASE is the folder or the GGUF file (llama only) that was trained on. The logits file holds, for each probe N, the
adapted model's `logits.N` [T, V] f32 on the token ids `ids.N` [T]. With --prompts, both also answer the first five
prompts greedily, and the texts must agree. Exit code 1 if anything is beyond its bound.
"""

import argparse
import json
import sys
import warnings
from pathlib import Path

import numpy as np
import torch
from peft import PeftConfig, PeftModelForCausalLM
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

BOUND = 1e-3  # of a logit, where what was stored is f32
TOP1_BOUND = 0.98  # where a 16-bit merged file has rounded the weights
PROMPTS, NEW_TOKENS = 5, 48

BLOCK = {
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}
ENDS = {
    "token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}


def unpermute(weight, heads):
    """GGUF interleaves each head's rotary pairs; transformers keeps them in halves."""
    rows = weight.shape[0] // heads // 2
    return weight.reshape(heads, rows, 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def load_gguf(path):
    """A GGUF of the llama family as a transformers model in f32. Written apart from tune's reader, to judge it."""
    import gguf

    reader = gguf.GGUFReader(path)
    meta = {k: f.contents() for k, f in reader.fields.items()}
    if meta["general.architecture"] != "llama" or any(t.name == "rope_freqs.weight" for t in reader.tensors):
        sys.exit(f"{path}: only llama without rope scaling is understood here; give the base as a folder")
    heads, kv_heads = meta["llama.attention.head_count"], meta["llama.attention.head_count_kv"]
    state = {}
    for tensor in reader.tensors:
        weight = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        weight = weight.reshape([int(d) for d in reversed(tensor.shape)])
        if tensor.name in ENDS:
            name = ENDS[tensor.name]
        else:
            _, layer, what, suffix = tensor.name.split(".")
            if what in ("attn_q", "attn_k"):
                weight = unpermute(weight, heads if what == "attn_q" else kv_heads)
            name = f"model.layers.{layer}.{BLOCK[what]}.{suffix}"
        state[name] = torch.from_numpy(np.ascontiguousarray(weight))
    tied = "lm_head.weight" not in state
    config = LlamaConfig(
        vocab_size=state["model.embed_tokens.weight"].shape[0], hidden_size=meta["llama.embedding_length"],
        intermediate_size=meta["llama.feed_forward_length"], num_hidden_layers=meta["llama.block_count"],
        num_attention_heads=heads, num_key_value_heads=kv_heads, tie_word_embeddings=tied,
        max_position_embeddings=meta["llama.context_length"], rope_theta=meta.get("llama.rope.freq_base", 10000.0),
        rms_norm_eps=meta["llama.attention.layer_norm_rms_epsilon"],
    )
    model = LlamaForCausalLM(config)
    left = model.load_state_dict(state, strict=False)
    assert not left.unexpected_keys and set(left.missing_keys) <= {"lm_head.weight"}, left
    model.tie_weights()
    return model


def load_folder(path):
    model, info = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, output_loading_info=True)
    # GPT-Neo files carry their causal masks, which transformers computes itself.
    masks = ("attention.bias", "masked_bias")
    info["unexpected_keys"] = {k for k in info["unexpected_keys"] if not k.endswith(masks)}
    faults = {k: sorted(v) for k, v in info.items() if v}
    if faults:
        sys.exit(f"{path}: does not load whole: {faults}")
    return model


def load_adapted(base, adapter):
    model = load_gguf(base) if base.suffix == ".gguf" else load_folder(base)
    peft = PeftModelForCausalLM(model, PeftConfig.from_pretrained(adapter))
    result = peft.load_adapter(adapter, "default")
    if result.missing_keys or result.unexpected_keys:
        sys.exit(f"{adapter}: keys missing {result.missing_keys}, unexpected {result.unexpected_keys}")
    return peft.eval()


def stored_dtypes(folder):
    """The dtypes of the folder's tensors, e.g. {"BF16"}."""
    dtypes = set()
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as f:
            dtypes |= {f.get_slice(k).get_dtype() for k in f.keys()}
    return dtypes


@torch.no_grad()
def compare(model, probes):
    """Largest logit difference and share of equal arg-maxima over all probes."""
    worst, equal, total = 0.0, 0, 0
    for n in range(sum(k.startswith("ids.") for k in probes)):
        wanted = probes[f"logits.{n}"]
        found = model(input_ids=probes[f"ids.{n}"].long()[None]).logits[0].float()
        worst = max(worst, (found - wanted).abs().max().item())
        equal += (found.argmax(-1) == wanted.argmax(-1)).sum().item()
        total += len(wanted)
    return worst, equal / total


@torch.no_grad()
def answers(model, tokenizer, prompts):
    texts = []
    for prompt in prompts:
        if tokenizer.chat_template:
            chat = [{"role": "user", "content": prompt}]
            prompt = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        inputs = tokenizer(prompt, return_tensors="pt", add_special_tokens=not tokenizer.chat_template)
        # Stop tokens from the merged folder alone: a GGUF base brings no generation config.
        out = model.generate(
            **inputs, max_new_tokens=NEW_TOKENS, do_sample=False, eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
        )
        texts.append(tokenizer.decode(out[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))
    return texts


def read_prompts(path):
    """The user's side of the first rows: `prompt`, `instruction`, or the first user message."""
    prompts = []
    for line in path.read_text(encoding="utf-8").splitlines()[:PROMPTS]:
        row = json.loads(line)
        user = next((m["content"] for m in row.get("messages", []) if m["role"] == "user"), None)
        prompts.append(row.get("prompt") or row.get("instruction") or user)
    return prompts


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--adapter", type=Path, required=True)
    parser.add_argument("--merged", type=Path, required=True)
    parser.add_argument("--logits", type=Path, required=True)
    parser.add_argument("--prompts", type=Path)
    args = parser.parse_args()
    warnings.filterwarnings("ignore", category=FutureWarning)
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    probes = load_file(args.logits)
    if "ids.0" not in probes:
        sys.exit(f"{args.logits}: holds no `ids.0`; is it a file that `tune export --verify --logits` wrote?")

    adapted, merged = load_adapted(args.base, args.adapter), load_folder(args.merged).eval()
    for path, model in ((args.base, adapted), (args.merged, merged)):
        if model.config.vocab_size != probes["logits.0"].shape[-1]:
            sys.exit(f"{path}: vocabulary {model.config.vocab_size}, logits {list(probes['logits.0'].shape)}")
    exact = stored_dtypes(args.merged) == {"F32"}
    failed = False
    print(f"{'':24}  max |Δlogit|  top-1 equal")
    for name, model, bound_logits in (("adapter in peft", adapted, True), ("merged in transformers", merged, exact)):
        worst, top1 = compare(model, probes)
        # Not `worst > BOUND`: NaN has to fail.
        ok = worst <= BOUND if bound_logits else top1 >= TOP1_BOUND
        bound = f"≤ {BOUND:g}" if bound_logits else f"top-1 ≥ {TOP1_BOUND:.0%}, weights stored in 16 bits"
        failed |= not ok
        print(f"{name:24}  {worst:12.2e}  {top1:11.2%}  {'ok' if ok else 'FAILED'} ({bound})")
    if args.prompts:
        tokenizer = AutoTokenizer.from_pretrained(args.merged)
        prompts = read_prompts(args.prompts)
        texts = [answers(model, tokenizer, prompts) for model in (adapted, merged)]
        equal = sum(a == b for a, b in zip(*texts))
        failed |= exact and equal < len(prompts)
        print(f"greedy answers equal: {equal} of {len(prompts)}; the first, to {prompts[0]!r}:\n  {texts[0][0]!r}")
    sys.exit(failed)


if __name__ == "__main__":
    main()
