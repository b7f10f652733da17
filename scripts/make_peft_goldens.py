"""Writes tests/goldens/peft: adapters that PEFT saved on a tiny random Llama, and with each one module's update
as PEFT computes it. Needs torch, transformers, peft.

    python scripts/make_peft_goldens.py
"""

import json
import shutil
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

OUT = Path(__file__).parent.parent / "tests/goldens/peft"
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ADAPTERS = {
    "plain": LoraConfig(r=4, lora_alpha=8, target_modules=ALL),
    "rslora": LoraConfig(r=4, lora_alpha=8, use_rslora=True, target_modules=["q_proj", "v_proj"]),
    "patterns": LoraConfig(
        r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "down_proj"],
        rank_pattern={"layers.0.self_attn.q_proj": 2, "q_proj": 3}, alpha_pattern={"down_proj": 6, "v_.*": 5.5}),
    "regex": LoraConfig(r=2, lora_alpha=2, target_modules=r".*layers\.1\..*(q|o)_proj"),
    "all-linear": LoraConfig(r=2, lora_alpha=3, target_modules="all-linear"),
    "one-layer": LoraConfig(r=2, lora_alpha=3, target_modules=["q_proj"], layers_to_transform=[1]),
}


def main():
    shutil.rmtree(OUT, ignore_errors=True)
    config = LlamaConfig(vocab_size=64, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
                         num_attention_heads=4, num_key_value_heads=2)
    for name, lora in ADAPTERS.items():
        torch.manual_seed(0)
        lora.task_type, lora.base_model_name_or_path = "CAUSAL_LM", "tiny/llama"
        model = get_peft_model(LlamaForCausalLM(config), lora)
        updates = {}
        for path, module in model.named_modules():
            if hasattr(module, "lora_B"):
                torch.nn.init.normal_(module.lora_B["default"].weight, std=0.1)
                delta = module.get_delta_weight("default").double()
                updates[path.removeprefix("base_model.model.")] = {
                    "shape": list(delta.shape), "r": module.r["default"], "scale": module.scaling["default"],
                    "sum": delta.sum().item(),
                    "weighted": (delta.reshape(-1) * (torch.arange(delta.numel()) % 97)).sum().item()}
        model.peft_config["default"].base_model_name_or_path = "tiny/llama"
        model.save_pretrained(OUT / name)
        (OUT / name / "README.md").unlink()
        (OUT / name / "updates.json").write_text(json.dumps(updates, indent=1) + "\n")


if __name__ == "__main__":
    main()
