"""Diffusion priors: what turns a noisy latent and a prompt into a noise prediction. Knows nothing of scenes.

`check.py` says within milliseconds whether a prior can be loaded; `stable_diffusion.py` loads it. This file imports
neither, so that the check stays cheap.
"""
