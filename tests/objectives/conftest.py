import pytest
from jaxtyping import config


@pytest.fixture
def as_users_run_it():
    """Without the annotation checks of the test run, which would answer before our own messages do."""
    before = config.jaxtyping_disable
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", before)
