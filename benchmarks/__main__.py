"""Print the table: `python -m benchmarks`."""

from __future__ import annotations

import argparse
import datetime
import platform

import torch

import unrolled
from benchmarks.layers import cases
from benchmarks.paired import MismatchError, compare


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=10, help="timed pairs of each case [10]")
    parser.add_argument("--threads", type=int, default=2, help="torch threads [2]")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    print(
        f"unrolled {unrolled.__version__}, torch {torch.__version__}, {platform.machine()}, "
        f"{chosen.threads} threads, {datetime.date.today()}; "
        f"milliseconds, minimum and median of {chosen.rounds}\n"
    )
    print(f"{'training step':<48}{'ours':>16}{'peer':>16}   ratio (range)")
    for name, ours, peer in cases():
        try:
            result = compare(ours, peer, rounds=chosen.rounds)
        except MismatchError as error:
            print(f"{name:<48}not timed: {error}")
            continue
        numbers = ""
        for side in (result.ours, result.peer):
            ordered = sorted(side)
            numbers += f"{1e3 * ordered[0]:>8.2f}{1e3 * ordered[len(ordered) // 2]:>8.2f}"
        low, high = result.ratios[0], result.ratios[-1]
        print(f"{name:<48}{numbers}   {result.ratio:.2f} ({low:.2f} to {high:.2f})", flush=True)


if __name__ == "__main__":
    main()
