"""Compares the vectors of an index with sentence-transformers, and the speed of both.

    pip install -r scripts/requirements.txt
    cargo build --release
    python scripts/check_embeddings.py EMBEDDER [--chunks 600] [--tune target/release/tune]

EMBEDDER is a folder in Hugging Face layout. Indexes made-up Markdown documents of about `--chunks` chunks, has
sentence-transformers embed the same texts, sorted by length and in batches as it does by itself, and prints the largest
difference of any number and the passages a second of both, one after the other on otherwise idle cores. Fails where
they differ by more than 1e-4.
"""

import argparse
import json
import sqlite3
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
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        (folder / "docs").mkdir()
        documents(folder / "docs", args.chunks)
        (folder / "c.toml").write_text(f'[rag]\ndocuments = ["docs"]\npath = "index"\nbreadcrumb = false\nembedder = {json.dumps(str(args.embedder))}\n')
        subprocess.run([args.tune, "index", "c.toml", "-q"], cwd=folder, check=True)
        report = json.loads((folder / "index/report.json").read_text())
        rows = sqlite3.connect(folder / "index/index.sqlite").execute(
            "SELECT text, content FROM chunk JOIN vector USING (row) ORDER BY row").fetchall()
    texts = [text for text, _ in rows]
    ours = np.stack([np.frombuffer(blob, "<f4") for _, blob in rows])
    model = SentenceTransformer(str(args.embedder), device="cpu")
    model.encode(texts[:8])
    begun = time.perf_counter()
    theirs = model.encode(texts, normalize_embeddings=True)
    seconds = time.perf_counter() - begun
    difference = np.abs(ours - theirs).max()
    print(f"{len(texts)} passages, {report['tokens']} tokens; largest difference {difference:.1e}")
    print(f"tune index, everything included: {len(texts) / report['seconds']:.1f} passages/s")
    print(f"sentence-transformers, embedding alone: {len(texts) / seconds:.1f} passages/s")
    print(f"ratio {seconds / report['seconds']:.2f}")
    assert difference < 1e-4


main()
