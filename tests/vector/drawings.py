"""Thirty drawings that use everything that is supported, and a renderer that is not ours."""

import io
import math
import random

import numpy as np
import torch
from PIL import Image
from torch import Tensor

OPEN = "fill='none' stroke='#225' "
ZIGZAG = "M10 20 L40 20 L15 50 L60 45 L62 20 L66 70"
BEND = "M10 30 C40 0 30 80 60 40 S90 20 90 80"
STAR = "M50 5 L80 95 L5 40 L95 40 L20 95 Z"
STOPS = (
    "<stop offset='0.1' stop-color='gold'/><stop offset='60%' stop-color='#c03'/><stop offset='1' stop-color='navy'/>"
)

BODIES = {
    "rectangles": "<rect x='5.3' y='8.1' width='40' height='30.6' fill='teal'/>"
    "<rect x='50' y='40' width='45' height='50' rx='12' ry='20' fill='plum'/>",
    "circles": "<circle cx='35' cy='40' r='28.7' fill='#c40'/><ellipse cx='65' cy='60' rx='33' ry='15' fill='#04c8'/>",
    "polygons": "<polygon points='10,10 90,25 60,90' fill='olive'/><polyline points='5,95 50,40 95,95' fill='pink'/>",
    "nonzero": f"<path d='{STAR}' fill='crimson'/>",
    "evenodd": f"<path d='{STAR}' fill='crimson' fill-rule='evenodd'/>",
    "opposite rings": "<path d='M10 10H90V90H10Z M30 30V70H70V30Z' fill='indigo'/>",
    "quadratics": "<path d='M5 50 Q25 0 50 50 T95 50 V90 H5 Z' fill='seagreen'/>",
    "relative": "<path d='m10 10 l30 5 c10 10 20 20 40 0 s10 40 -10 60 "
    "q-20 20 -40 -10 t-15 -20 z m70 70 h9v9h-9z' fill='#456'/>",
    "arcs": "<path d='M20 50 A30 18 25 1 0 70 40 A10 10 0 0 1 90 60 L50 90 Z' fill='tomato'/>"
    f"<path d='M10 20 a 12 6 -30 0 1 30 10' {OPEN} stroke-width='2.2'/>",
    "miter": f"<path d='{ZIGZAG}' {OPEN} stroke-width='5'/>",
    "miter limit": f"<path d='{ZIGZAG}' {OPEN} stroke-width='5' stroke-miterlimit='1.5'/>",
    "round": f"<path d='{ZIGZAG}' {OPEN} stroke-width='8' stroke-linejoin='round' stroke-linecap='round'/>",
    "square": f"<path d='{ZIGZAG}' {OPEN} stroke-width='7' stroke-linejoin='bevel' stroke-linecap='square'/>",
    "curves": f"<path d='{BEND}' {OPEN} stroke-width='6.5'/><circle cx='25' cy='75' r='14' {OPEN} stroke-width='3'/>",
    "thin": f"<path d='{BEND}' {OPEN} stroke-width='.25'/><path d='M3 3L97 60' {OPEN} stroke-width='.1'/>",
    "tight": "<path d='M20 80 C80 -10 20 -10 70 80' fill='none' stroke='brown' stroke-width='20'/>",
    "transforms": "<g transform='translate(50 50) rotate(30)'><g transform='scale(.7 .4)'>"
    "<rect x='-50' y='-50' width='100' height='100' fill='khaki' stroke='#333' stroke-width='9'/></g>"
    "<path transform='skewX(20) matrix(1 .2 0 1 3 4)' d='M0 0H20V20Z' fill='#a0a'/></g>",
    "mirrored": f"<g transform='translate(100 0) scale(-1 1)'><path d='{ZIGZAG}' {OPEN} stroke-width='6'/></g>",
    "linear": f"<linearGradient id='g'>{STOPS}</linearGradient><circle cx='50' cy='50' r='40' fill='url(#g)'/>",
    "user space": f"<defs><linearGradient id='a'>{STOPS}</linearGradient>"
    "<linearGradient id='g' href='#a' x1='20' y1='10' x2='70' y2='60' "
    "gradientUnits='userSpaceOnUse' gradientTransform='rotate(15)'/></defs>"
    "<rect x='10' y='10' width='80' height='80' fill='url(#g)' transform='rotate(10 50 50)'/>",
    "radial": f"<radialGradient id='g' cx='.4' cy='.3' r='.7'>{STOPS}</radialGradient>"
    "<ellipse cx='50' cy='50' rx='45' ry='30' fill='url(#g)'/>",
    "transparent stops": "<linearGradient id='g' y2='1'><stop stop-color='red' stop-opacity='.2'/>"
    "<stop offset='1' stop-color='blue'/></linearGradient><rect x='20' y='5' width='60' height='90' fill='url(#g)' "
    "stroke='url(#g)' stroke-width='6' stroke-opacity='.5'/>",
    "group opacity": "<g opacity='.4'><circle cx='40' cy='50' r='30' fill='red'/><g opacity='.5'>"
    "<circle cx='60' cy='50' r='30' fill='blue'/><rect x='30' y='45' width='60' height='10' fill='lime'/></g></g>",
    "fill and stroke": "<circle cx='50' cy='50' r='35' fill='gold' stroke='navy' stroke-width='12' opacity='.6'/>"
    "<rect x='3' y='3' width='30' height='30' fill='green' fill-opacity='.3' stroke='#000' stroke-opacity='.5'/>",
    "style sheet": "<style>.a, #b { fill: #f80 } rect { stroke: purple; stroke-width: 4px }</style>"
    "<rect class='a' x='10' y='10' width='30' height='30'/>"
    "<rect id='b' x='50' y='50' width='40' height='40' fill='red'/>",
    "inherited": "<g fill='none' stroke='currentColor' color='maroon' style='stroke-width:5;stroke-linecap:round'>"
    "<path d='M10 10L90 50'/><path d='M10 50L90 90' stroke='hsl(200,50%,50%)'/>"
    "<path d='M10 90h30' style='stroke:rgba(0,128,0,.5)'/></g>",
    "outside": "<rect x='-500' y='40' width='2000' height='31.3' fill='#9ad'/>"
    "<circle cx='0' cy='100' r='60' fill='#d9a'/>"
    "<path d='M-300 -300 L400 380' stroke='black' stroke-width='3'/><circle cx='900' cy='900' r='5'/>",
    "units": "<rect x='10%' y='2mm' width='50%' height='0.5in' fill='slateblue'/><circle cx='50%' cy='70%' r='10%'/>",
}


def svg(body: str, attributes: str = "viewBox='0 0 100 100'") -> str:
    return f"<svg xmlns='http://www.w3.org/2000/svg' {attributes}>{body}</svg>"


def blobs(seed: int, count: int = 12) -> str:
    """Random closed curves, some of them stroked."""
    draw = random.Random(seed)
    paths = []
    for _ in range(count):
        x, y, r, n = draw.uniform(0, 100), draw.uniform(0, 100), draw.uniform(5, 30), draw.randrange(3, 8)
        turns = [2 * math.pi * i / n for i in range(n)]
        nodes = [
            (x + draw.uniform(0.5, 1) * r * math.cos(a), y + draw.uniform(0.5, 1) * r * math.sin(a)) for a in turns
        ]
        words = [f"M{nodes[0][0]:.2f} {nodes[0][1]:.2f}"]
        for i in range(n):
            ends = nodes[i], nodes[(i + 1) % n]
            handles = [(p[0] + draw.gauss(0, r / 6), p[1] + draw.gauss(0, r / 6)) for p in ends]
            words.append("C" + " ".join(f"{a:.2f} {b:.2f}" for a, b in (*handles, ends[1])))
        stroke = f"stroke='#{draw.randrange(4096):03x}' stroke-width='{draw.uniform(0.2, 3):.2f}'"
        paths.append(
            f"<path d='{' '.join(words)}Z' fill='#{draw.randrange(4096):03x}' opacity='{draw.uniform(0.4, 1):.2f}' "
            f"{stroke if draw.random() < 0.5 else ''}/>"
        )
    return "".join(paths)


DRAWINGS = {name: svg(body) for name, body in BODIES.items()} | {
    "shifted box": svg(
        BODIES["circles"], "viewBox='20 -10 60 90' preserveAspectRatio='xMinYMax slice' width='80' height='50'"
    ),
    "wide": svg(BODIES["miter"], "width='200' height='80' viewBox='0 0 100 100'"),
    "outlined": svg(
        "<style>svg { stroke-linecap: round }</style><path d='M10 20L80 30L30 80'/>",
        "viewBox='0 0 100 100' fill='none' stroke='currentColor' stroke-width='7' style='color: teal'",
    ),
    **{f"blobs {seed}": svg(blobs(seed)) for seed in range(3)},
}


def by_resvg(text: str, height: int, width: int, finer: int = 4) -> Tensor:
    """Rendered by resvg on white at `finer` times the size and averaged, [1 3 height width]."""
    import resvg_py

    png = resvg_py.svg_to_bytes(
        svg_string=text, width=width * finer, height=height * finer, background="#ffffff", dpi=96
    )
    picture = np.array(Image.open(io.BytesIO(bytes(png))).convert("RGB"))
    fine = torch.from_numpy(picture).movedim(-1, 0)[None].float() / 255
    assert fine.shape[-2:] == (height * finer, width * finer)
    return torch.nn.functional.avg_pool2d(fine, finer)
