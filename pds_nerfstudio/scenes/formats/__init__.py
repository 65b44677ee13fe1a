"""Files of Gaussian splats, a module for each format.

`splat_files.py` tells them apart and lists the writers; what they all become is `scenes.gaussians.Splats`.
"""
