"""nerfstudio scenes that can be edited: two small model subclasses, one differentiable `render`, and base runs.

How do gradients reach the Gaussians (or the hash grid)? `rendering.py`. What is a base run? `source.py`. Where do
training cameras and images come from? `views.py`. Nothing here knows of diffusion models.
"""
