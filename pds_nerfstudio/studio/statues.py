"""A bust on its socle, and an artist's jointed figure on its disc: smooth surfaces that look along +x."""

import numpy as np

from pds_nerfstudio.studio.surfaces import Numbers, Surface, ellipsoid, lathe, spline, sweep
from pds_nerfstudio.studio.textures import step

HEAD = [
    *((0.0, 0.05, 0.08, 0.50), (0.0, 0.09, 0.26, 0.50), (0.0, 0.13, 0.38, 0.52), (0.01, 0.16, 0.45, 0.6)),
    *((0.0, 0.14, 0.42, 0.7), (-0.01, 0.1, 0.16, 0.755), (-0.02, 0.1, 0.1, 0.79), (-0.015, 0.1, 0.098, 0.86)),
    *((0.02, 0.125, 0.1, 0.895), (0.035, 0.155, 0.125, 0.93), (0.02, 0.19, 0.155, 1.02), (0.0, 0.215, 0.17, 1.13)),
    *((-0.01, 0.215, 0.175, 1.23), (-0.015, 0.18, 0.15, 1.33), (-0.02, 0.1, 0.09, 1.37), (-0.02, 0.0, 0.0, 1.37)),
]
"""Cross sections of a bust from the chest upwards: x of the middle, half the depth, half the width, z."""
FEATURES = [
    *((0.075, 0.0, 0.022, 1.06, 0.035), (0.05, 0.0, 0.02, 1.11, 0.05), (-0.035, 0.07, 0.032, 1.115, 0.028)),
    *((-0.035, -0.07, 0.032, 1.115, 0.028), (0.018, 0.06, 0.05, 1.165, 0.022), (0.018, -0.06, 0.05, 1.165, 0.022)),
    *((0.026, 0.0, 0.05, 0.985, 0.016), (-0.012, 0.0, 0.05, 0.962, 0.01), (0.03, 0.0, 0.05, 0.925, 0.022)),
    *((0.016, 0.085, 0.035, 1.05, 0.04), (0.016, -0.085, 0.035, 1.05, 0.04)),
]
"""What stands out of a face (metres), at which y over which width, at which z over which height.

Nose and its ridge, eyes, brows, lips, chin, cheeks.
"""


def bust(rows: int = 240, columns: int = 193) -> list[Surface]:
    """A head with a face, hair in a knot and shoulders, on a turned socle."""
    middle, deep, wide, z = (column[:, None] for column in spline(HEAD, rows).T)
    angle = np.linspace(-np.pi, np.pi, columns)[None, :]
    x, y = middle + deep * np.cos(angle), wide * np.sin(angle)
    front = np.clip(np.cos(angle), 0, 1) ** 0.5
    for out, y0, broad, z0, high in FEATURES:
        x = x + out * front * np.exp(-(((y - y0) / broad) ** 2) - ((z - z0) / high) ** 2)
    hair = step(1.12, 1.24, z + 0.16 * np.cos(angle + np.pi)) * step(0.98, 1.06, z)
    strands = 0.012 + 0.006 * np.cos(24 * angle + 6 * np.sin(9 * z))
    x, y = x + hair * strands * np.cos(angle), y + hair * strands * np.sin(angle)
    head = Surface(np.stack([x, y, np.broadcast_to(z, x.shape)], axis=-1))
    socle = [(0, 0), (0.3, 0), (0.3, 0.0), (0.3, 0.09), (0.3, 0.09), (0.22, 0.13), (0.12, 0.22), (0.1, 0.36)]
    socle += [(0.17, 0.44), (0.17, 0.44), (0.17, 0.5), (0.12, 0.52), (0, 0.52)]
    ears = [ellipsoid((-0.01, side * 0.172, 1.09), (0.035, 0.018, 0.06)) for side in (-1, 1)]
    return [head, lathe(spline(socle, 120)), *ears, ellipsoid((-0.2, 0, 1.05), (0.08, 0.085, 0.075))]


def _limb(start: Numbers, end: Numbers, near: float, far: float, samples: int = 30) -> Surface:
    """A turned piece between two joints, thickest in its first half, with round ends."""
    t = np.linspace(0, 1, samples)
    swelling = 1 + 0.16 * np.sin(np.pi * t**0.7)
    radii = (near + (far - near) * t) * swelling * np.sqrt(1 - 0.96 * np.abs(2 * t - 1) ** 8)
    return sweep(np.linspace(start, end, samples), radii)


def figure(raising_arms: bool) -> list[Surface]:
    """Turned pieces that ball joints hold together, arms at its sides or up in the air; it stands on a disc."""
    disc = [(0, 0), (0.34, 0), (0.36, 0), (0.36, 0.02), (0.36, 0.05), (0.34, 0.06), (0, 0.06)]
    parts = [
        lathe(spline(disc, 60)),
        ellipsoid((0.005, 0, 1.275), (0.098, 0.085, 0.125)),
        ellipsoid((0, 0, 1.135), (0.04, 0.04, 0.05)),
        ellipsoid((0, 0, 0.99), (0.105, 0.175, 0.145)),
        ellipsoid((0, 0, 0.835), (0.07, 0.075, 0.06)),
        ellipsoid((0, 0, 0.73), (0.095, 0.145, 0.1)),
    ]
    for side in (-1, 1):
        hip, knee, ankle = (0, side * 0.09, 0.665), (0.015, side * 0.115, 0.4), (-0.01, side * 0.125, 0.13)
        parts += [_limb(hip, knee, 0.075, 0.055), _limb(knee, ankle, 0.058, 0.036)]
        parts += [ellipsoid(knee, (0.048,) * 3), ellipsoid(hip, (0.07,) * 3), ellipsoid(ankle, (0.034,) * 3)]
        parts.append(ellipsoid((0.045, side * 0.13, 0.09), (0.105, 0.048, 0.036)))
        shoulder = (0, side * 0.205, 1.075)
        if raising_arms:
            elbow, wrist, hand = (0.01, side * 0.37, 1.27), (0.03, side * 0.44, 1.5), (0.035, side * 0.455, 1.575)
        else:
            elbow, wrist, hand = (-0.01, side * 0.275, 0.83), (0.045, side * 0.3, 0.61), (0.06, side * 0.305, 0.535)
        parts += [_limb(shoulder, elbow, 0.056, 0.044), _limb(elbow, wrist, 0.046, 0.032)]
        parts += [ellipsoid(shoulder, (0.062,) * 3), ellipsoid(elbow, (0.042,) * 3)]
        parts.append(ellipsoid(hand, (0.034, 0.028, 0.068)))
    return parts
