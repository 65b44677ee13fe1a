"""Rendering drawings, forward and backward: processor time and wall-clock time over the number of paths.

    python benchmarks/vector.py --threads 2

Paths are closed curves of eight cubics around random centres, some 240 pixels across at 512², every other one stroked:
larger than those of most drawings. Wall-clock time on a machine with other work says little.
"""

import math
import random
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from pds_nerfstudio.vector import read_drawing, render


@dataclass
class Args:
    """What is measured."""

    paths: tuple[int, ...] = (20, 200)
    sizes: tuple[int, ...] = (64, 512)
    """Pixels."""
    threads: int = 2
    repeats: int = 5


def curves(count: int) -> str:
    """An SVG document of random closed curves."""
    draw = random.Random(0)
    paths = []
    for number in range(count):
        x, y = draw.uniform(0, 512), draw.uniform(0, 512)
        turns = [math.pi * i / 4 for i in range(8)]
        nodes = [(x + draw.uniform(70, 145) * math.cos(a), y + draw.uniform(70, 145) * math.sin(a)) for a in turns]
        words = [f"M{nodes[0][0]:.2f} {nodes[0][1]:.2f}"]
        for start, end in zip(nodes, [*nodes[1:], nodes[0]], strict=True):
            handles = [(p[0] + draw.gauss(0, 8), p[1] + draw.gauss(0, 8)) for p in (start, end)]
            words.append("C" + " ".join(f"{a:.2f} {b:.2f}" for a, b in (*handles, end)))
        stroke = "stroke='#000' stroke-width='3'" if number % 2 else ""
        paths.append(f"<path d='{' '.join(words)}Z' fill='#{draw.randrange(4096):03x}' {stroke}/>")
    return f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 512 512'>{''.join(paths)}</svg>"


def main(args: Args) -> None:
    """Print one row for each number of paths and size."""
    torch.set_num_threads(args.threads)
    print(f"torch {torch.__version__}, {args.threads} threads, median of {args.repeats}\n")
    print("| paths | pixels | forward, s of processor | with backward | wall-clock |\n|---|---|---|---|---|")
    for count in args.paths:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "curves.svg"
            path.write_text(curves(count))
            drawing = read_drawing(path)
        for size in args.sizes:
            times = []
            for _ in range(args.repeats + 1):  # the first is not counted
                values = drawing.source.map(lambda value: value.clone().requires_grad_(True))
                wall, start = time.perf_counter(), time.process_time()
                picture = render(drawing, values, size, size)
                forward = time.process_time() - start
                picture.square().sum().backward()
                times.append((forward, time.process_time() - start, time.perf_counter() - wall))
            middle = [statistics.median(column) for column in zip(*times[1:], strict=True)]
            print(f"| {count} | {size} | " + " | ".join(f"{value:.2f}" for value in middle) + " |", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Args))
