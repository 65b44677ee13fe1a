"""Vector graphics: an SVG file as tensors, rendered with gradients, and written back. Imports torch alone.

`parse` reads a file into a `Drawing` (what is fixed) and its `Values` (what an edit may change), `rasterise` renders
them, `write` puts edited values into the file's own tree of elements. Nothing here knows of diffusion or of nerfstudio.
"""

from pds_nerfstudio.vector.drawing import CANVAS, Drawing, Values
from pds_nerfstudio.vector.parse import read_drawing
from pds_nerfstudio.vector.rasterise import render
from pds_nerfstudio.vector.write import write_drawing

__all__ = ["CANVAS", "Drawing", "Values", "read_drawing", "render", "write_drawing"]
