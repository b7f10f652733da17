"""Compares the vectors of an index with sentence-transformers, and the speed of both.

    pip install -r scripts/requirements.txt
    cargo build --release
    python scripts/check_embeddings.py EMBEDDER [--chunks 600] [--rounds 5] [--tune target/release/tune]

EMBEDDER is a folder in Hugging Face layout. Indexes made-up Markdown documents of about `--chunks` chunks and has
sentence-transformers embed the same texts, sorted by length and in batches as it does by itself, in turns: ours, theirs,
ours, theirs. Prints the largest difference of any number and the medians, on otherwise idle cores. Ours is told twice:
embedding alone (tokenizing included, as in theirs), and everything from reading the files to a written index. Fails where
vectors differ by more than 1e-4.
"""

import argparse
import json
import shutil
import sqlite3
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
from sentence_transformers import SentenceTransformer

WORDS = "harbour lantern tide brass glass keeper rope letter morning winter lamp boat market river stone window".split()


def documents(folder, chunks):
    rng = np.random.default_rng(0)
    for number in range(chunks // 6):
        sections = []
        for section in range(6):
            sentences = (" ".join(rng.choice(WORDS, rng.integers(6, 18))).capitalize() + "." for _ in range(rng.integers(4, 16)))
            sections.append(f"## Section {section}\n\n" + " ".join(sentences))
        (folder / f"{number:04}.md").write_text(f"# Document {number}\n\n" + "\n\n".join(sections) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("embedder", type=lambda p: Path(p).resolve())
    parser.add_argument("--tune", type=lambda p: Path(p).resolve(), default=Path("target/release/tune").resolve())
    parser.add_argument("--chunks", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    model = SentenceTransformer(str(args.embedder), device="cpu")
    whole, ours, theirs = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        (folder / "docs").mkdir()
        documents(folder / "docs", args.chunks)
        (folder / "c.toml").write_text(f'[rag]\ndocuments = ["docs"]\npath = "index"\nbreadcrumb = false\nembedder = {json.dumps(str(args.embedder))}\n')
        for _ in range(args.rounds):
            shutil.rmtree(folder / "index", ignore_errors=True)
            subprocess.run([args.tune, "index", "c.toml", "-q"], cwd=folder, check=True)
            report = json.loads((folder / "index/report.json").read_text())
            whole.append(report["seconds"])
            ours.append(report["embedding_seconds"])
            rows = sqlite3.connect(folder / "index/index.sqlite").execute(
                "SELECT text, content FROM chunk JOIN vector USING (row) ORDER BY row").fetchall()
            texts = [text for text, _ in rows]
            if not theirs:
                model.encode(texts[:8])
            begun = time.perf_counter()
            wanted = model.encode(texts, normalize_embeddings=True)
            theirs.append(time.perf_counter() - begun)
            print(f"round {len(theirs)}: index {whole[-1]:.2f} s, of it embedding {ours[-1]:.2f} s; sentence-transformers {theirs[-1]:.2f} s", flush=True)
    difference = np.abs(np.stack([np.frombuffer(blob, "<f4") for _, blob in rows]) - wanted).max()
    whole, ours, theirs = (len(texts) / statistics.median(seconds) for seconds in (whole, ours, theirs))
    print(f"{len(texts)} passages, {report['tokens']} tokens; largest difference {difference:.1e}; medians of {args.rounds} rounds:")
    print(f"sentence-transformers, embedding alone: {theirs:.1f} passages/s")
    print(f"tune index, embedding alone: {ours:.1f} passages/s, ratio {ours / theirs:.2f}")
    print(f"tune index, everything included: {whole:.1f} passages/s, ratio {whole / theirs:.2f}")
    assert difference < 1e-4


main()
