"""Writes tests/goldens/encoders/: tiny random encoders of class BERT and the numbers sentence-transformers and
transformers compute with them.

    pip install -r scripts/requirements.txt
    python scripts/make_encoder_goldens.py

Made with torch 2.11.0 (CPU, f32, eager attention), transformers 5.23.0, sentence-transformers 6.2.0. Seeded.

Each case is a Hugging Face folder with `golden.safetensors`:

    ids.<i>               [T] i32         a text, special tokens included; five of different lengths
    types.<i>             [T] i32         which of two texts a token belongs to (cross-encoder alone)
    embeddings            [5, d] f32      mean/, cls/: sentence-transformers' Pooling and Normalize over the hidden states
    relevance             [5] f32         cross/: logits of BertForSequenceClassification with one label
"""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from sentence_transformers.models import Normalize, Pooling
from tokenizers import Tokenizer, models
from transformers import BertConfig, BertForSequenceClassification, BertModel

OUT = Path(__file__).resolve().parent.parent / "tests" / "goldens" / "encoders"
CONFIG = dict(
    vocab_size=60, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
    max_position_embeddings=40, type_vocab_size=2, hidden_act="gelu", layer_norm_eps=1e-12, attn_implementation="eager",
)
LENGTHS = [1, 5, 17, 40, 9]


def randomized(model):
    """Wide enough that attention and GELU are far from linear; biases and norms are not their neutral values."""
    for name, parameter in model.named_parameters():
        center = 1.0 if "LayerNorm.weight" in name else 0.0
        torch.nn.init.normal_(parameter, mean=center, std=0.3)
    return model.eval()


def texts():
    return [torch.randint(0, CONFIG["vocab_size"], (n,), dtype=torch.int32) for n in LENGTHS]


def write(name, model, tensors, **companions):
    folder = OUT / name
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    vocabulary = {f"t{i}": i for i in range(CONFIG["vocab_size"])}
    Tokenizer(models.WordLevel(vocabulary, unk_token="t0")).save(str(folder / "tokenizer.json"))
    for path, value in companions.items():
        path = folder / path.replace("__", "/")
        path.parent.mkdir(exist_ok=True)
        path.with_suffix(".json").write_text(json.dumps(value, indent=2) + "\n")
    save_file(tensors, folder / "golden.safetensors")


@torch.no_grad()
def embedding_case(mode):
    model, ids = randomized(BertModel(BertConfig(**CONFIG))), texts()
    pooling, normalize = Pooling(CONFIG["hidden_size"], pooling_mode=mode), Normalize()
    rows = []
    for text in ids:
        hidden = model(text[None].long()).last_hidden_state
        features = dict(token_embeddings=hidden, attention_mask=torch.ones(1, len(text)))
        rows.append(normalize(pooling(features))["sentence_embedding"][0])
    tensors = {f"ids.{i}": text for i, text in enumerate(ids)} | {"embeddings": torch.stack(rows)}
    write(mode, model, tensors, **{"1_Pooling__config": {
        "word_embedding_dimension": CONFIG["hidden_size"],
        "pooling_mode_cls_token": mode == "cls",
        "pooling_mode_mean_tokens": mode == "mean",
    }, "sentence_bert_config": {"max_seq_length": 40}})


@torch.no_grad()
def cross_case():
    model, ids = randomized(BertForSequenceClassification(BertConfig(**CONFIG, num_labels=1))), texts()
    types = [torch.tensor([int(i >= len(t) // 2) for i in range(len(t))], dtype=torch.int32) for t in ids]
    logits = [model(t[None].long(), token_type_ids=y[None].long()).logits[0, 0] for t, y in zip(ids, types)]
    tensors = {f"ids.{i}": t for i, t in enumerate(ids)} | {f"types.{i}": y for i, y in enumerate(types)}
    write("cross", model, tensors | {"relevance": torch.stack(logits)})


torch.manual_seed(0)
embedding_case("mean")
embedding_case("cls")
cross_case()
