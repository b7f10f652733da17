"""Writes tests/goldens/models/: tiny random models and the numbers that transformers and peft compute with them.

    pip install -r scripts/requirements.txt
    python scripts/make_goldens.py [CASE...]      # all of them without a name
    python scripts/make_goldens.py variants       # dora.safetensors, adapter-dora/ and pissa.safetensors alone

Made with torch 2.11.0 (CPU, f32, eager attention), transformers 5.23.0, peft 0.21.2. Seeded: the same versions on
the same processor write the same bytes.

Each case is a Hugging Face folder (config.json in the form published models have) with `golden.safetensors`. V is
the vocabulary, `<path>` a module as in the checkpoint, e.g. `model.layers.0.self_attn.q_proj`, A [r, in], B [out, r]:

    input_ids             [2, 24] i32     two unpadded rows
    logits                [2, 24, V] f32  of the base
  with adapter/ (r 4, alpha 8, all-linear, both factors random):
    adapter_logits        [2, 24, V] f32  of `input_ids`
    ids.<i>               [T] i32         a batch of two sequences, 24 and 17 tokens
    learn.<i>             [T] u8          1: this token is a target, predicted from the one before it
    loss_sum, learned     [1] f64, i32    negative log-likelihood summed over all targets of the batch, their count
    grad.<path>.lora_A|B  f32             gradient of `loss_sum`, each sequence run alone
  with adapter-pattern/ (rsLoRA, rank_pattern, alpha_pattern):
    pattern_logits        [2, 24, V] f32  of `input_ids`
  20 steps of AdamW from adapter/ (learning rate 1e-2, betas 0.9 0.999, eps 1e-8, decay 0.01, norm clipped to 1):
    adamw.ids.<b>.<i>, adamw.learn.<b>.<i>  step s takes batch b = s mod 4, two sequences
    adamw.losses, adamw.grad_norms          [20] f64  mean over learned tokens before the step; norm before the clip
    adamw.final.<path>.lora_A|B             f32       weights after the last step

Beside one golden.safetensors lie the same numbers of other adapters on the same base. `dora.safetensors` is of adapter-dora/
and has lora_magnitude_vector [out] beside lora_A and lora_B. `pissa.safetensors` is of init_lora_weights="pissa" before a
step. Singular vectors are sharp but for their signs, so what it has of each module are products, which lack them:

    logits                [2, 24, V] f32  of `input_ids`
    part.<path>           [out, 2] f32    s B A v: what the base is taken apart into, v[i, j] = ((37 i + 11 j) mod 101 - 50) / 50
    grad_a.<path>         [out, 2] f32    B dA v
    grad_b.<path>         [out, 2] f32    dB A v
"""

import json
import shutil
import sys
import zlib
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging

OUT = Path(__file__).resolve().parent.parent / "tests" / "goldens" / "models"


def without(config, *keys):
    return {k: v for k, v in config.items() if k not in keys}


LLAMA = dict(
    architectures=["LlamaForCausalLM"], model_type="llama", vocab_size=160, hidden_size=64, intermediate_size=128,
    num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=16, hidden_act="silu",
    max_position_embeddings=128, rms_norm_eps=1e-5, rope_theta=10000.0, rope_scaling=None, attention_bias=False,
    attention_dropout=0.0, mlp_bias=False, pretraining_tp=1, initializer_range=0.02, tie_word_embeddings=False,
    bos_token_id=1, eos_token_id=2, torch_dtype="float32", transformers_version="4.43.0", use_cache=True,
)

QWEN = without(LLAMA, "head_dim", "mlp_bias", "pretraining_tp", "attention_bias") | dict(
    hidden_size=32, intermediate_size=64, num_attention_heads=4, num_key_value_heads=2, rms_norm_eps=1e-6,
    rope_theta=1000000.0, use_sliding_window=False, sliding_window=4096, max_window_layers=2,
)
PHI3 = without(LLAMA, "head_dim", "mlp_bias", "attention_bias", "pretraining_tp") | dict(
    architectures=["Phi3ForCausalLM"], model_type="phi3", hidden_size=32, intermediate_size=64, embd_pdrop=0.0,
    resid_pdrop=0.0, original_max_position_embeddings=128, sliding_window=None, pad_token_id=0,
)
GPT2 = dict(
    activation_function="gelu_new", architectures=["GPT2LMHeadModel"], attn_pdrop=0.1, bos_token_id=1, embd_pdrop=0.1,
    eos_token_id=2, initializer_range=0.02, layer_norm_epsilon=1e-5, model_type="gpt2", n_ctx=48, n_embd=32, n_head=4,
    n_layer=3, n_positions=48, resid_pdrop=0.1, summary_activation=None, summary_first_dropout=0.1,
    summary_proj_to_labels=True, summary_type="cls_index", summary_use_proj=True, vocab_size=160,
)

NEOX = dict(
    architectures=["GPTNeoXForCausalLM"], model_type="gpt_neox", vocab_size=160, hidden_size=32, intermediate_size=96,
    num_hidden_layers=2, num_attention_heads=2, hidden_act="gelu", rotary_pct=0.25, rotary_emb_base=10000,
    max_position_embeddings=64, layer_norm_eps=1e-5, initializer_range=0.02, use_parallel_residual=True,
    tie_word_embeddings=False, bos_token_id=0, eos_token_id=0, torch_dtype="float32", transformers_version="4.24.0",
    use_cache=True,
)

GEMMA2 = dict(
    architectures=["Gemma2ForCausalLM"], model_type="gemma2", vocab_size=160, hidden_size=32, intermediate_size=64,
    num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, head_dim=12, hidden_act="gelu_pytorch_tanh",
    hidden_activation="gelu_pytorch_tanh", max_position_embeddings=128, rms_norm_eps=1e-6, rope_theta=10000.0,
    attention_bias=False, attention_dropout=0.0, attn_logit_softcapping=5.0, final_logit_softcapping=4.0,
    query_pre_attn_scalar=16, sliding_window=8, cache_implementation="hybrid", initializer_range=0.02, bos_token_id=2,
    eos_token_id=1, pad_token_id=0, torch_dtype="float32", transformers_version="4.42.4", use_cache=True,
)

CASES = {
    # 256 bytes, 5 merges, 3 special tokens: the case whose vocabulary is the tokenizer's.
    "llama-gqa-tied": LLAMA | dict(vocab_size=264, tie_word_embeddings=True, bos_token_id=261, eos_token_id=263),
    # original_max_position_embeddings is small, so that 24 positions feel all three bands of the scaling.
    "llama3-rope-untied": LLAMA | dict(
        num_key_value_heads=1, rope_theta=500000.0, max_position_embeddings=512,
        rope_scaling=dict(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                          original_max_position_embeddings=64, rope_type="llama3"),
    ),
    # "type", not "rope_type": the older spelling. Heads as many as key/value heads, and head_dim left out.
    "llama-linear-rope": without(LLAMA, "head_dim") | dict(
        num_key_value_heads=4, rope_scaling=dict(type="linear", factor=2.0), attention_bias=True, mlp_bias=True,
    ),
    "mistral-window": without(LLAMA, "attention_bias", "mlp_bias", "pretraining_tp") | dict(
        architectures=["MistralForCausalLM"], model_type="mistral", sliding_window=8,
    ),
    "gpt-neo": dict(
        architectures=["GPTNeoForCausalLM"], model_type="gpt_neo", vocab_size=160, hidden_size=64, num_layers=3,
        num_heads=4, intermediate_size=None, attention_types=[[["global", "local"], 1], [["global"], 1]],
        attention_layers=["global", "local", "global"], window_size=8, max_position_embeddings=64,
        activation_function="gelu_new", layer_norm_epsilon=1e-5, attention_dropout=0, embed_dropout=0, resid_dropout=0,
        initializer_range=0.02, bos_token_id=1, eos_token_id=2, torch_dtype="float32", transformers_version="4.9.0",
        use_cache=True,
    ),
    # No head_dim, a window from layer 1 on, YaRN as Qwen's pages give it: 24 positions feel both ends of its ramp.
    "qwen2-window-yarn": QWEN | dict(
        architectures=["Qwen2ForCausalLM"], model_type="qwen2", num_hidden_layers=3, use_sliding_window=True,
        sliding_window=8, max_window_layers=1,
        rope_scaling=dict(factor=4.0, original_max_position_embeddings=32, type="yarn"),
    ),
    "qwen2-tied": QWEN | dict(architectures=["Qwen2ForCausalLM"], model_type="qwen2", tie_word_embeddings=True),
    # Heads wider together than the hidden size, as in the published ones.
    "qwen3": QWEN | dict(
        architectures=["Qwen3ForCausalLM"], model_type="qwen3", head_dim=16, attention_bias=False,
        tie_word_embeddings=True,
    ),
    # The pattern by interval; by default the head is tied.
    "smollm3": without(LLAMA, "head_dim", "tie_word_embeddings") | dict(
        architectures=["SmolLM3ForCausalLM"], model_type="smollm3", hidden_size=32, intermediate_size=64,
        num_hidden_layers=3, no_rope_layer_interval=2, use_sliding_window=False, sliding_window=None,
        pad_token_id=0,
    ),
    # The pattern by list, a window where there is no rotation, biases.
    "smollm3-list": without(LLAMA, "head_dim") | dict(
        architectures=["SmolLM3ForCausalLM"], model_type="smollm3", hidden_size=32, intermediate_size=64,
        num_hidden_layers=3, no_rope_layers=[0, 1, 1], use_sliding_window=True, sliding_window=8, pad_token_id=0,
        attention_bias=True, mlp_bias=True,
    ),
    "olmo2": without(LLAMA, "head_dim", "mlp_bias", "pretraining_tp") | dict(
        architectures=["Olmo2ForCausalLM"], model_type="olmo2", hidden_size=32, intermediate_size=64, pad_token_id=0,
    ),
    # Half of each head rotates; sequences longer than 20 tokens by the long factors, 17 by the short ones.
    "phi3-longrope": PHI3 | dict(
        partial_rotary_factor=0.5, max_position_embeddings=128, original_max_position_embeddings=20,
        rope_scaling=dict(type="longrope", short_factor=[1.0, 1.25], long_factor=[2.0, 5.0]),
    ),
    "phi3-window": PHI3 | dict(sliding_window=8, tie_word_embeddings=True),
    "gpt2": GPT2,
    # Scores scaled by the layer's number, the other activation, an inner width of its own.
    "gpt2-scaled": GPT2 | dict(
        n_layer=2, n_inner=48, activation_function="gelu", scale_attn_by_inverse_layer_idx=True,
    ),
    # Caps so low that scores and logits feel them.
    "gemma2": GEMMA2,
    # Local layers with angles of their own, the global one's stretched.
    "gemma3-text": without(GEMMA2, "cache_implementation", "hidden_act") | dict(
        architectures=["Gemma3ForCausalLM"], model_type="gemma3_text", attn_logit_softcapping=None,
        final_logit_softcapping=None, rope_theta=50000.0, rope_local_base_freq=100.0,
        rope_scaling=dict(factor=8.0, rope_type="linear"), sliding_window_pattern=3, transformers_version="4.50.0",
    ),
    # 4 of a head's 16 dimensions rotate.
    "gpt-neox": NEOX,
    "gpt-neox-serial": NEOX | dict(use_parallel_residual=False, hidden_act="gelu_new", rotary_pct=0.5),
}
WITH_ADAPTER = (
    "llama-gqa-tied", "llama3-rope-untied", "gpt-neo",
    "qwen2-window-yarn", "qwen3", "smollm3", "olmo2", "phi3-longrope",
    "gpt2", "gemma2", "gemma3-text", "gpt-neox",
)
# Cases made before seeds came of names.
PLACES = ("llama-gqa-tied", "llama3-rope-untied", "llama-linear-rope", "mistral-window", "gpt-neo")
WITH_PATTERN = WITH_STEPS = FITS_TOKENIZER = "llama-gqa-tied"
LORA = dict(r=4, lora_alpha=8, target_modules="all-linear", lora_dropout=0.0, task_type="CAUSAL_LM")
PATTERN = LORA | dict(
    use_rslora=True,
    # The first pattern that matches a path's end decides.
    rank_pattern={"layers.0.self_attn.q_proj": 2, "q_proj": 8, r"layers\.1\.mlp\.(up|down)_proj": 3},
    alpha_pattern={"o_proj": 16, "layers.1.self_attn.q_proj": 4},
)
STEPS, BATCHES = 20, 4
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2) + "\n")


def randomize(model):
    """Weights far from the usual start, so that logits, norms and biases all matter."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.dim() == 1 and name.endswith("weight"):
                # Gemma stores the weights of its norms less 1.
                p.normal_(0.0 if model.config.model_type.startswith("gemma") else 1.0, 0.2)
            else:
                p.normal_(0.0, 0.1 if "wpe" in name or name.endswith("bias") else 0.15)


def published_state(model):
    """What a hub file holds: no tied head; for GPT-2, GPT-Neo and GPT-NeoX also causal masks, which a reader has to skip; GPT-2
    was saved without its head, and so without the `transformer.` before its names; GPT-NeoX calls its head `embed_out`."""
    state = {k: v.detach().clone().contiguous() for k, v in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        state.pop("lm_head.weight", None)
    if model.config.model_type == "gpt_neo":
        n = model.config.max_position_embeddings
        for i, kind in enumerate(model.config.attention_layers):
            mask = torch.ones(n, n, dtype=torch.uint8).tril()
            if kind == "local":
                mask = mask ^ mask.tril(-model.config.window_size)
            state[f"transformer.h.{i}.attn.attention.bias"] = mask.view(1, 1, n, n)
            state[f"transformer.h.{i}.attn.attention.masked_bias"] = torch.tensor(-1e9)
    if model.config.model_type == "gpt2":
        n = model.config.n_positions
        state = {k.removeprefix("transformer."): v for k, v in state.items()}
        for i in range(model.config.n_layer):
            state[f"h.{i}.attn.bias"] = torch.ones(n, n).tril().view(1, 1, n, n)
    if model.config.model_type == "gpt_neox":
        n, rotary = model.config.max_position_embeddings, model.gpt_neox.layers[0].attention.rotary_ndims
        state["embed_out.weight"] = state.pop("lm_head.weight")
        for i in range(model.config.num_hidden_layers):
            at = f"gpt_neox.layers.{i}.attention"
            state[f"{at}.bias"] = torch.ones(n, n, dtype=torch.bool).tril().view(1, 1, n, n)
            state[f"{at}.masked_bias"] = torch.tensor(-1e9)
            state[f"{at}.rotary_emb.inv_freq"] = 10000 ** -(torch.arange(0, rotary, 2) / rotary)
    return state


def write_model(folder, config):
    write_json(folder / "config.json", config)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), attn_implementation="eager")
    randomize(model)
    save_file(published_state(model), folder / "model.safetensors", metadata={"format": "pt"})


def load(folder):
    model, info = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    assert not info["missing_keys"] and not info["mismatched_keys"], info
    return model.eval()


def write_tokenizer(folder):
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("h", "e"), ("t", "he"), ("Ġ", "the"), ("i", "n"), ("o", "n")]
    vocab = {t: i for i, t in enumerate(alphabet + [a + b for a, b in merges])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    assert tokenizer.get_vocab_size() == CASES[FITS_TOKENIZER]["vocab_size"]
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(folder / "tokenizer_config.json", dict(
        tokenizer_class="PreTrainedTokenizerFast", bos_token="<|endoftext|>", eos_token="<|im_end|>",
        pad_token="<|endoftext|>", model_max_length=128, clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    ))


def write_adapter(model, path, settings):
    """Random factors: with PEFT's own start B is zero, and a wrong adapter would go unseen."""
    peft = get_peft_model(model, LoraConfig(**settings)).eval()
    with torch.no_grad():
        for name, p in peft.named_parameters():
            if "lora_A" in name:
                p.normal_(0.0, 0.1)
            elif "lora_B" in name:
                p.normal_(0.0, 0.05)
            elif "lora_magnitude_vector" in name:
                p.mul_(torch.empty_like(p).uniform_(0.8, 1.2))
    peft.save_pretrained(path)
    (path / "README.md").unlink()
    config = json.loads((path / "adapter_config.json").read_text())
    # A set's order and the folder's path would make every machine write another file.
    config["target_modules"].sort()
    config["base_model_name_or_path"] = path.parent.name
    write_json(path / "adapter_config.json", config)
    return peft


def sequence(vocab, length):
    """Ids and learn-mask: a prompt of a third, then mostly learned tokens with a hole."""
    ids = torch.randint(0, vocab, (length,), dtype=torch.int32)
    learn = (torch.arange(length) >= length // 3) & (torch.arange(length) % 7 != 3)
    return ids, learn.to(torch.uint8)


def loss_sum(model, ids, learn):
    logp = model(input_ids=ids[None].long()).logits[0].double().log_softmax(-1)
    picked = logp[:-1].gather(1, ids[1:, None].long())[:, 0]
    return -(picked * learn[1:]).sum()


def logits(model, ids):
    with torch.no_grad():
        return model(input_ids=ids.long()).logits.clone()


def factors(peft):
    """`model.layers.0.self_attn.q_proj.lora_A` to its parameter."""
    name = lambda n: n.removeprefix("base_model.model.").removesuffix(".default.weight")
    return {name(n): p for n, p in peft.named_parameters() if p.requires_grad}


def adapter_golden(folder, config, ids, name="adapter", settings=None):
    peft = write_adapter(load(folder), folder / name, settings or LORA)
    golden = {"adapter_logits": logits(peft, ids)}
    batch = [sequence(config["vocab_size"], n) for n in (24, 17)]
    total = torch.zeros(1, dtype=torch.float64)
    for i, (seq, learn) in enumerate(batch):
        golden |= {f"ids.{i}": seq, f"learn.{i}": learn}
        loss = loss_sum(peft, seq, learn)
        loss.backward()
        total += loss.detach()
    golden["loss_sum"] = total
    golden["learned"] = torch.tensor([sum(int(learn.sum()) for _, learn in batch)], dtype=torch.int32)
    return golden | {f"grad.{n}": p.grad.clone() for n, p in factors(peft).items()}


def steps_golden(folder, config, name="adapter"):
    peft = PeftModel.from_pretrained(load(folder), folder / name, is_trainable=True).eval()
    params = factors(peft)
    optimizer = torch.optim.AdamW(params.values(), lr=1e-2, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)
    batches = [[sequence(config["vocab_size"], n) for n in (24 - b, 9 + 3 * b)] for b in range(BATCHES)]
    golden = {}
    for b, batch in enumerate(batches):
        for i, (ids, learn) in enumerate(batch):
            golden |= {f"adamw.ids.{b}.{i}": ids, f"adamw.learn.{b}.{i}": learn}
    losses, norms = [], []
    for step in range(STEPS):
        batch = batches[step % BATCHES]
        loss = sum(loss_sum(peft, *s) for s in batch) / sum(int(learn.sum()) for _, learn in batch)
        optimizer.zero_grad()
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(params.values(), 1.0).double())
        optimizer.step()
        losses.append(loss.detach())
    golden |= {"adamw.losses": torch.stack(losses), "adamw.grad_norms": torch.stack(norms)}
    return golden | {f"adamw.final.{n}": p.detach().clone() for n, p in params.items()}


def seed(name):
    return PLACES.index(name) if name in PLACES else zlib.crc32(name.encode())


def make(name, config):
    torch.manual_seed(seed(name))
    folder = OUT / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_model(folder, config)
    write_tokenizer(folder)
    ids = torch.randint(0, config["vocab_size"], (2, 24), dtype=torch.int32)
    golden = {"input_ids": ids, "logits": logits(load(folder), ids)}
    if name in WITH_ADAPTER:
        golden |= adapter_golden(folder, config, ids)
    if name == WITH_PATTERN:
        golden["pattern_logits"] = logits(write_adapter(load(folder), folder / "adapter-pattern", PATTERN), ids)
    if name == WITH_STEPS:
        golden |= steps_golden(folder, config)
    save_file({k: v.contiguous() for k, v in golden.items()}, folder / "golden.safetensors")
    spread = golden["logits"].std().item()
    kib = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) / 1024
    print(f"{name:20} {len(golden):4} tensors  logits' deviation {spread:.2f}  {kib:.0f} KiB")


def dora_golden(folder, config):
    ids = torch.randint(0, config["vocab_size"], (2, 24), dtype=torch.int32)
    golden = {"input_ids": ids} | adapter_golden(folder, config, ids, "adapter-dora", LORA | dict(use_dora=True))
    return golden | steps_golden(folder, config, "adapter-dora")


def pissa_golden(folder, config):
    peft = get_peft_model(load(folder), LoraConfig(**LORA | dict(init_lora_weights="pissa"))).eval()
    ids = torch.randint(0, config["vocab_size"], (2, 24), dtype=torch.int32)
    golden = {"input_ids": ids, "logits": logits(peft, ids)}
    seq, learn = sequence(config["vocab_size"], 24)
    loss = loss_sum(peft, seq, learn)
    loss.backward()
    golden |= {"ids": seq, "learn": learn, "loss_sum": loss.detach().reshape(1)}
    for path, module in peft.named_modules():
        if hasattr(module, "lora_magnitude_vector"):
            a, b = (getattr(module, f"lora_{side}")["default"].weight for side in "AB")
            i, j = torch.arange(a.shape[1])[:, None], torch.arange(2)
            v = ((37 * i + 11 * j) % 101 - 50) / 50
            path = path.removeprefix("base_model.model.")
            with torch.no_grad():
                golden |= {f"part.{path}": module.scaling["default"] * b @ (a @ v),
                           f"grad_a.{path}": b @ (a.grad @ v), f"grad_b.{path}": b.grad @ (a @ v)}
    return golden


def variants():
    folder, config = OUT / WITH_STEPS, CASES[WITH_STEPS]
    for seed, (name, make) in enumerate({"dora": dora_golden, "pissa": pissa_golden}.items(), start=100):
        torch.manual_seed(seed)
        golden = {k: v.contiguous() for k, v in make(folder, config).items()}
        save_file(golden, folder / f"{name}.safetensors")
        print(f"{name:20} {len(golden):4} tensors  {(folder / f'{name}.safetensors').stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    for name in sys.argv[1:] or [*CASES, "variants"]:
        if name == "variants":
            variants()
        else:
            make(name, CASES[name])
