"""Writes tests/goldens/quant: what bitsandbytes makes of small matrices (NF4 with double quantization, int8), and tiny
llamas that transformers saved quantized, with the logits of their dequantized weights. All on the CPU, one thread.

    python scripts/make_quant_goldens.py

Ran with bitsandbytes 0.50.2, torch 2.11.0, transformers 5.23.0. Where its CPU path differs from the CUDA one: a last,
shorter block is divided by its absmax on the CPU and multiplied by the reciprocal on CUDA, so that a value within one
rounding of a boundary may get the neighbouring code; the offset is torch's mean, whose last bit depends on the device and
the number of threads. bitsandbytes 0.50.2 also dequantizes rows of, say, 32 or 96 columns wrongly on a CPU with AVX-512 (even
multiples of 16 that are no whole number of blocks), so the matrices here have none of those.
"""

import shutil
from pathlib import Path

import bitsandbytes.functional as bnb
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

OUT = Path(__file__).parent.parent / "tests/goldens/quant"
TOKENIZER = OUT.parent / "models/llama-gqa-tied/tokenizer.json"
torch.manual_seed(0)
torch.set_num_threads(1)


def matrices():
    """Whole blocks; an odd number of values; more than one nested block and a shorter last block; a block of zeros."""
    zeros = torch.randn(3, 128) * 0.1
    zeros[1] = 0
    return {
        "even": torch.randn(24, 64) * 0.02,
        "odd": torch.randn(7, 37),
        "nested": torch.randn(136, 130) * torch.rand(136, 1) * 0.1,
        "zeros": zeros,
    }


def make_matrices():
    tensors = {"code": bnb.get_4bit_type("nf4", device="cpu"), "map": bnb.create_dynamic_map()}
    for name, weight in matrices().items():
        weight = weight.bfloat16()
        codes, state = bnb.quantize_4bit(weight.float(), quant_type="nf4", compress_statistics=True)
        _, plain = bnb.quantize_4bit(weight.float(), quant_type="nf4")
        rows, scales, _ = bnb.int8_vectorwise_quant(weight.half())
        tensors |= {
            f"{name}.weight": weight,
            f"{name}.nf4": codes.reshape(-1),
            f"{name}.absmax": plain.absmax,
            f"{name}.nested": state.absmax,
            f"{name}.nested_absmax": state.state2.absmax,
            f"{name}.offset": state.offset.reshape(1),
            f"{name}.nf4_dense": bnb.dequantize_4bit(codes, state),
            f"{name}.int8": rows,
            f"{name}.scales": scales,
            f"{name}.int8_dense": bnb.int8_vectorwise_dequant(rows, scales),
        }
    save_file(tensors, OUT / "matrices.safetensors")


def make_models():
    config = LlamaConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=64, max_position_embeddings=64, tie_word_embeddings=False,
    )
    dense = OUT / "dense"
    LlamaForCausalLM(config).save_pretrained(dense)
    four = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.float32}
    for name, quantization in {
        "llama-nf4": BitsAndBytesConfig(**four, bnb_4bit_use_double_quant=True),
        "llama-nf4-plain": BitsAndBytesConfig(**four),
        "llama-int8": BitsAndBytesConfig(load_in_8bit=True),
    }.items():
        model = AutoModelForCausalLM.from_pretrained(
            dense, quantization_config=quantization, dtype=torch.float32, device_map="cpu"
        )
        model.save_pretrained(OUT / name)
        shutil.copy(TOKENIZER, OUT / name)
        ids = torch.randint(config.vocab_size, (1, 24))
        with torch.no_grad():
            logits = model.dequantize(dtype=torch.float32).eval()(ids).logits[0]
        save_file({"ids": ids[0].int(), "logits": logits}, OUT / name / "golden.safetensors")
    shutil.rmtree(dense)


OUT.mkdir(exist_ok=True)
make_matrices()
make_models()
