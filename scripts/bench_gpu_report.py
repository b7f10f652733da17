"""What scripts/bench_gpu.sh left in a folder, as one table of bounds and figures: results.md and results.json.

    python3 scripts/bench_gpu_report.py FOLDER

Needs Python alone. A row whose part is missing or failed says so; nothing is filled in.
"""

import json
import sys
from pathlib import Path

GIB = 2**30


class Folder:
    def __init__(self, path):
        self.path = Path(path)

    def report(self, name):
        """The `report` of a part, or None."""
        whole = self.whole(name)
        return whole and whole["report"]

    def whole(self, name):
        path = self.path / f"{name}.json"
        return json.loads(path.read_text()) if path.is_file() else None

    def names(self):
        """Of our own parts."""
        return [path.stem for path in sorted(self.path.glob("*.json")) if "program" in (self.whole(path.stem) or [])]

    def text(self, name):
        path = self.path / f"{name}.txt"
        return path.read_text().strip() if path.is_file() else ""

    def why_not(self, *names):
        for name in names:
            path = self.path / f"{name}.failed"
            if path.is_file():
                return f"not measured ({name}: {path.read_text().strip()})"
        return "not measured"

    def peer(self, name, mode):
        """Tokens/s of a peer beside part `name`, or None."""
        for result in self.whole(f"{name}-peers") or []:
            return result["peers"].get(mode, {}).get("tokens_per_second")


def row(what, bound, found, ok):
    return dict(what=what, bound=bound, found=found, verdict={None: "—", True: "ok", False: "missed"}[ok])


def shape(folder, name, what, rate, gib, peer, times):
    """A training shape: speed, memory, and the ratio to a peer."""
    bound = f"≥ {rate:,} tok/s, ≥ {times}× {peer}" + (f", ≤ {gib} GiB" if gib else "")
    got = folder.report(name)
    if not got:
        return row(what, bound, folder.why_not(name), None)
    speed, peak = got["tokens_per_second"]["median"], got["measured_bytes"] / GIB
    found = f"{speed:,.0f} tok/s, {peak:.1f} GiB, {got['floor_share']:.0%} of the floor"
    theirs = folder.peer(name, peer)
    found += f", {speed / theirs:.2f}× {peer}" if theirs else f", {peer} not measured"
    if speed < rate or (gib and peak > gib) or (theirs and speed < times * theirs):
        return row(what, bound, found, False)
    return row(what, bound, found, True if theirs else None)


def nf4(folder):
    bound, got, plain = "fits, ≥ 0.75 of bf16 with the same recompute", folder.report("nf4"), folder.report("nf4-as-bf16")
    what = "8B NF4, 1 × 2048, planner at 10 GiB"
    if not got:
        return row(what, bound, folder.why_not("nf4"), None)
    speed, peak = got["tokens_per_second"]["median"], got["measured_bytes"] / GIB
    found = f"{speed:,.0f} tok/s, {peak:.2f} GiB, {got['kept_blocks']} blocks kept"
    if not plain:
        return row(what, bound, f"{found}; bf16 {folder.why_not('nf4-as-bf16')}", None)
    ratio = speed / plain["tokens_per_second"]["median"]
    return row(what, bound, f"{found}, {ratio:.2f} of bf16", peak <= 10 and ratio >= 0.75)


def longest(folder):
    what, bound, got = "8B NF4, planner at 24 GiB, longest context", "≥ 78,000 tokens", folder.report("nf4-long")
    if not got:
        return row(what, bound, folder.why_not("nf4-long"), None)
    tokens, peak = got["tokens_per_step"], got["measured_bytes"] / GIB
    speed = got["tokens_per_second"]["median"]
    return row(what, bound, f"{tokens:,} tokens at {speed:,.0f} tok/s, {peak:.1f} GiB", tokens >= 78000 and peak <= 24)


def planned(folder):
    names = ["8b", "1b", "135m", "nf4", "packed", "recomputed"]
    parts, worst = [], 0.0
    for name in names:
        got = folder.report(name)
        if got:
            off = got["measured_bytes"] / got["planned_bytes"] - 1
            worst = max(worst, abs(off))
            parts.append(f"{name} {off:+.1%}")
    found = ", ".join(parts) or folder.why_not(*names)
    ok = worst <= 0.07 if len(parts) == len(names) else None
    return row("measured peak over planned, six settings", "within 7 %", found, ok)


def packing(folder):
    what, bound = "packed documents against the same padded", "≥ 2× learned tokens/s, same loss"
    packed, padded = folder.report("packed"), folder.report("padded")
    if not (packed and padded):
        return row(what, bound, folder.why_not("packed", "padded"), None)
    ratio = packed["learned_tokens_per_second"] / padded["learned_tokens_per_second"]
    apart = abs(packed["first_loss"] - padded["first_loss"])
    return row(what, bound, f"{ratio:.2f}×, losses {apart:.4f} apart", ratio >= 2 and apart <= 0.01)


def start(folder):
    what, bound, got = "start to first step, weights in the page cache", "≤ 15 s", folder.report("start")
    if not got:
        return row(what, bound, folder.why_not("start"), None)
    seconds = got["seconds_to_first_step"]
    return row(what, bound, f"{seconds:.1f} s, the step itself {got['first_step_seconds']:.2f} s", seconds <= 15)


def decoding(folder, name):
    got = folder.report(name)
    if not got:
        return row(name, "beside transformers", folder.why_not(name), None)
    what = f"decoding, {got['prompts']} prompts of {got['prompt_tokens']}, {got['new_tokens']} new each"
    speed = got["new_tokens_per_second"]["median"]
    theirs = folder.peer(name, "transformers")
    beside = f"{speed / theirs:.2f}× transformers' {theirs:,.0f}" if theirs else "transformers not measured"
    return row(what, "beside transformers", f"{speed:,.0f} tok/s, {beside}", None)


def losses(folder, name):
    path = folder.path / f"{name}.jsonl"
    if not path.is_file():
        return []
    rows = map(json.loads, path.read_text().splitlines())
    return [row["loss"] for row in rows if "loss" in row]


def curve(folder):
    """Judged by windows of a tenth of the run: single steps differ by what rows they hold, alike on both sides."""
    what, bound = "loss curve, SmolLM2, GPU bf16 against CPU f32", "same within noise"
    ours, exact = losses(folder, "curve-gpu"), losses(folder, "curve-cpu")
    if not ours or len(ours) != len(exact):
        return row(what, bound, folder.why_not("curve-gpu", "curve-cpu"), None)
    width = max(len(ours) // 10, 1)
    mean = lambda values, at: sum(values[at : at + width]) / width
    apart = max(abs(mean(ours, at) - mean(exact, at)) for at in range(0, len(ours) - width + 1, width))
    (folder.path / "curve.svg").write_text(plot(ours, exact))
    return row(what, bound, f"{len(ours)} steps, windows at most {apart:.4f} apart (curve.svg)", apart <= 0.02)


def plot(ours, exact, width=640, height=320):
    high, low = max(ours + exact), min(ours + exact)
    x = lambda i: 20 + i * (width - 40) / max(len(ours) - 1, 1)
    y = lambda loss: 20 + (high - loss) * (height - 40) / ((high - low) or 1)
    line = lambda values, colour: (
        f'<polyline fill="none" stroke="{colour}" points="'
        + " ".join(f"{x(i):.1f},{y(loss):.1f}" for i, loss in enumerate(values))
        + '"/>'
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">'
        f'<rect width="{width}" height="{height}" fill="white"/>{line(exact, "#c44")}{line(ours, "#248")}'
        f'<text x="{width - 180}" y="30" fill="#c44">CPU, f32</text><text x="{width - 180}" y="46" fill="#248">GPU, bf16</text>'
        f'<text x="22" y="16">loss {high:.3f} to {low:.3f}</text></svg>'
    )


def by_op(folder, name):
    got = folder.report(name)
    if not got or not got["by_op"]:
        return ""
    whole = got["accounted_step_seconds"]
    lines = [f"### {name}: {1e3 * whole:.1f} ms with every op waited for", "", "| op | ms | share | calls |", "|---|---:|---:|---:|"]
    for op in got["by_op"]:
        lines.append(f"| {op['name']} | {1e3 * op['seconds']:.2f} | {op['seconds'] / whole:.0%} | {op['calls'] or ''} |")
    return "\n".join(lines) + "\n"


def table_in(text):
    return "\n".join(line for line in text.splitlines() if line.startswith("|")) + "\n"


def main():
    folder = Folder(sys.argv[1])
    rows = [
        shape(folder, "8b", "8B, 2 × 4096, bf16, nothing recomputed", 17000, 42, "peft+liger", 1.4),
        shape(folder, "1b", "1B, 4 × 2048", 75000, 11, "peft+liger", 1.4),
        shape(folder, "135m", "135M, 8 × 512", 180000, None, "peft", 10),
        nf4(folder), longest(folder), planned(folder), packing(folder), start(folder), decoding(folder, "decoding-1"),
        decoding(folder, "decoding-8"), curve(folder),
    ]
    trial = (folder.whole("8b") or {}).get("shape") == "tiny"
    text = ["# A trial of the script: no figure means anything" if trial else "# GPU results", "", "```", folder.text("machine"), folder.text("doctor"), "```", ""]
    text += ["| what | bound | found | |", "|---|---|---|---|"]
    text += [f"| {r['what']} | {r['bound']} | {r['found']} | {r['verdict']} |" for r in rows]
    off = {tuple(reason) for name in folder.names() for reason in folder.whole(name).get("off") or []}
    text += [""] + [f"Kernel {name} was off: {why}" for name, why in sorted(off)]
    text += ["", "## Beside the peers", ""]
    text += [table_in(folder.text(f"{name}-peers")) for name in ("8b", "1b", "135m", "decoding-1", "decoding-8")]
    text += [table_in(folder.text("generate"))]
    text += ["## Time by op", ""]
    text += [by_op(folder, name) for name in ("8b", "1b", "135m", "nf4")]
    (folder.path / "results.md").write_text("\n".join(text) + "\n")
    parts = {path.stem: json.loads(path.read_text()) for path in sorted(folder.path.glob("*.json")) if path.stem != "results"}
    (folder.path / "results.json").write_text(json.dumps(dict(rows=rows, parts=parts), indent=1) + "\n")
    print("\n".join(text))


if __name__ == "__main__":
    main()
