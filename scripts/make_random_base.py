"""Writes a base of random bf16 weights with the sizes `tune bench --json` measured, for timing starts from files.

    python scripts/make_random_base.py ours.json FOLDER

A Hugging Face folder of one safetensors file per 4 GB, a tokenizer of 256 words, and `train.jsonl` to start a run with.
Needs Python alone: the weights repeat one random block, so that 16 GB are written as fast as the disk or the page cache
takes them.
"""

import json
import os
import struct
import sys
from pathlib import Path

BLOCK = 64 << 20
SHARD = 4 << 30


def tensors(config):
    d, inner, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    heads, kv = config["num_attention_heads"], config["num_key_value_heads"]
    head_dim = config.get("head_dim") or d // heads
    yield "model.embed_tokens.weight", [vocab, d]
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        for name, rows in (("q", heads), ("k", kv), ("v", kv)):
            yield f"{at}self_attn.{name}_proj.weight", [rows * head_dim, d]
        yield f"{at}self_attn.o_proj.weight", [d, heads * head_dim]
        for name, shape in (("gate", [inner, d]), ("up", [inner, d]), ("down", [d, inner])):
            yield f"{at}mlp.{name}_proj.weight", shape
        yield f"{at}input_layernorm.weight", [d]
        yield f"{at}post_attention_layernorm.weight", [d]
    yield "model.norm.weight", [d]
    if not config["tie_word_embeddings"]:
        yield "lm_head.weight", [vocab, d]


def random_block():
    """bf16 numbers of 0.0078 to 0.031 in size: random sign and mantissa."""
    noise = bytearray(os.urandom(BLOCK))
    noise[1::2] = noise[1::2].translate(bytes(0x3C | b & 0x80 for b in range(256)))
    return bytes(noise)


def write_shard(path, shard, block):
    header, offset = {}, 0
    for name, shape in shard:
        size = 2 * (shape[0] * shape[1] if len(shape) == 2 else shape[0])
        header[name] = dict(dtype="BF16", shape=shape, data_offsets=[offset, offset + size])
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        while offset > 0:
            offset -= file.write(block[: min(offset, len(block))])


def main():
    config, folder = json.loads(Path(sys.argv[1]).read_text())["config"], Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    shards, size = [[]], 0
    for name, shape in tensors(config):
        if size > SHARD:
            shards.append([])
            size = 0
        shards[-1].append((name, shape))
        size += 2 * shape[0] * (shape[1] if len(shape) == 2 else 1)
    block, weight_map = random_block(), {}
    for i, shard in enumerate(shards):
        file = f"model-{i + 1:05}-of-{len(shards):05}.safetensors"
        write_shard(folder / file, shard, block)
        weight_map.update({name: file for name, _ in shard})
    vocab = {f"w{i}": i for i in range(256)}
    write = lambda name, value: (folder / name).write_text(json.dumps(value))
    write("model.safetensors.index.json", dict(metadata={}, weight_map=weight_map))
    write("config.json", config)
    write("tokenizer.json", dict(
        version="1.0", added_tokens=[], normalizer=None, pre_tokenizer={"type": "Whitespace"}, post_processor=None,
        decoder=None, model=dict(type="WordLevel", vocab=vocab, unk_token="w0"),
    ))
    write("tokenizer_config.json", {})
    rows = (json.dumps(dict(text=" ".join(f"w{(i * 7 + j) % 256}" for j in range(400)))) for i in range(20))
    (folder / "train.jsonl").write_text("\n".join(rows))


if __name__ == "__main__":
    main()
