"""What every test gets: caches of its own, so that none reads or leaves anything elsewhere."""

import pytest


@pytest.fixture(autouse=True)
def own_caches(tmp_path_factory, monkeypatch):
    """Point the caches to a new folder, also in processes that the test starts."""
    caches = tmp_path_factory.mktemp("caches")
    monkeypatch.setenv("PICO_BANANA_CACHE", str(caches / "pico_banana"))
    monkeypatch.setenv("HF_HOME", str(caches / "huggingface"))
    return caches
