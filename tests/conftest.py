"""What every test gets: caches of its own, and the same examples of hypothesis at each run."""

import hypothesis
import pytest

# Seeded, and without a deadline: a busy machine is no failure.
hypothesis.settings.register_profile(
    "repeatable",
    database=None,
    deadline=None,
    derandomize=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def own_caches(tmp_path_factory, monkeypatch):
    """Point the caches to a new folder, also in processes that the test starts."""
    caches = tmp_path_factory.mktemp("caches")
    monkeypatch.setenv("PICO_BANANA_CACHE", str(caches / "pico_banana"))
    monkeypatch.setenv("HF_HOME", str(caches / "huggingface"))
    return caches
