"""What edits on a real GPU share with those on pretended ones."""

from cuda_without_gpu.conftest import free_port, steering  # noqa: F401 -- fixtures
