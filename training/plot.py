"""Draws the loss curve.

python3 -m training.plot --csv training/loss.csv --out training/loss.png
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import matplotlib.pyplot as plt

SMOOTH = 9
"""Rows of the log that one point of the curve is the mean of: updates differ in their lengths and tasks. Choice."""


def smooth(values: list[float]) -> list[float]:
    """Returns the running mean over `SMOOTH` values, as many as came in."""
    half = SMOOTH // 2
    windows = [values[max(0, i - half) : i + half + 1] for i in range(len(values))]
    return [sum(w) / len(w) for w in windows]


def main() -> None:
    """Reads the log and writes the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--csv", type=Path, default=Path("training/loss.csv"))
    parser.add_argument("--out", type=Path, default=Path("training/loss.png"))
    args = parser.parse_args()
    rows = list(csv.DictReader(args.csv.open()))
    tokens = [float(r["tokens"]) / 1e6 for r in rows]
    figure, left = plt.subplots(figsize=(8, 4.5), dpi=120)
    for name, label in (("loss", "all tokens, weighted"), ("answer_loss", "answer tokens")):
        left.plot(tokens, smooth([float(r[name]) for r in rows]), label=label)
    left.set(xlabel="million tokens", ylabel="cross-entropy, nats", yscale="log")
    right = left.twinx()
    right.plot(tokens, [float(r["rate_factor"]) for r in rows], color="grey", alpha=0.5, label="learning rate factor")
    right.set(ylabel="learning rate factor", ylim=(0, 1.05))
    left.legend(loc="lower left")
    left.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(args.out)


if __name__ == "__main__":
    main()
