"""Where a diffusion prior meets a nerfstudio scene: the edit itself, its trainer, and what a command line means."""
