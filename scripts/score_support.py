"""Scores answers to datasets/support/heldout.jsonl: format, ticket and facts, as its README defines them.

    tune generate --base BASE --prompts datasets/support/heldout.jsonl --json > before.jsonl
    tune generate --base BASE --adapter DIR --prompts datasets/support/heldout.jsonl --json > after.jsonl
    python scripts/score_support.py datasets/support/heldout.jsonl before.jsonl after.jsonl

One file of answers is scored; a second is compared with the first, some answers side by side, and the exit code is 1
unless it is better in every score. Needs nothing but Python.
"""

import json
import re
import sys
import textwrap
from pathlib import Path

FORMAT = re.compile(r"^Ahoy from Tidewick!\n[^\n]+\n\[Ticket: ([a-z]+) \| Desk: ([A-Z][a-z]+)\]$")
DESKS = dict(
    orders="Quay", shipping="Gull", returns="Anchor", warranty="Oak", subscriptions="Moon", setup="Beacon",
    repairs="Bosun", billing="Purser", hours="Bell", loyalty="Barnacle", other="Lookout",
)
# Rows shown, spread over the topics; the last one is out of scope.
SHOWN, WIDTH = (0, 14, 33, -1), 56


def read(path):
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines() if line]


def holds(text, fact):
    """`fact` in `text`, whatever the case, not as a part of a longer word or number."""
    return re.search(rf"(?<![^\W_]){re.escape(fact)}(?![^\W_])", text, re.IGNORECASE) is not None


def score(row, answer):
    match = FORMAT.match(answer.strip())
    return {
        "format": match is not None,
        "ticket and desk": match is not None and match.groups() == (row["topic"], DESKS[row["topic"]]),
        "facts": all(holds(answer, fact) for fact in row["facts"]),
    }


def wrapped(text):
    """Lines of at most WIDTH characters; a long answer is cut."""
    lines = [part for line in text.strip().splitlines() for part in textwrap.wrap(line, WIDTH) or [""]]
    return lines if len(lines) <= 6 else [*lines[:5], "…"]


def show(row, answers):
    columns = [wrapped(answer) for answer in answers]
    print(f"  > {row['prompt']}")
    for i in range(max(map(len, columns))):
        cells = [f"{column[i] if i < len(column) else '':{WIDTH}}" for column in columns]
        print(f"    {' │ '.join(cells)}".rstrip())
    print()


def main():
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    heldout, files = read(sys.argv[1]), [read(path) for path in sys.argv[2:]]
    for path, file in zip(sys.argv[2:], files):
        if [row["prompt"] for row in heldout] != [answer["prompt"] for answer in file]:
            sys.exit(f"{path}: its prompts are not those of {sys.argv[1]}, in that order")
    texts = [[answer["text"] for answer in file] for file in files]
    names = ["before", "after"][:len(files)]
    if len(files) == 2:
        print(f"    {'before':{WIDTH}}   after\n")
    for i in SHOWN:
        show(heldout[i], [file[i] for file in texts])
    scores = [[score(row, text) for row, text in zip(heldout, file)] for file in texts]
    print(f"  {'of ' + str(len(heldout)) + ' answers':18}" + "".join(f"{name:>8}" for name in names))
    better = True
    for what in scores[0][0]:
        right = [sum(row[what] for row in file) for file in scores]
        better &= right[-1] > right[0]
        print(f"  {what:18}" + "".join(f"{count:8}" for count in right))
    if len(files) == 2 and not better:
        sys.exit("the answers did not get better in every score")


if __name__ == "__main__":
    main()
