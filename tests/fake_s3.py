"""Stand in for an object store on loopback: moto's S3 server, and what it holds."""

from __future__ import annotations

import contextlib
import http.client
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

BUCKET = "shelf"


@contextlib.contextmanager
def serving() -> Iterator[Any]:
    """Run a server that has an empty bucket, named in the environment; give a client of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        boto3 = pytest.importorskip("boto3")
        pytest.importorskip("s3fs")
        moto_server = pytest.importorskip("moto.server")
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    # What moto holds is its process', not its server's: forget what earlier ones were given.
    with contextlib.closing(http.client.HTTPConnection(host, port)) as connection:
        connection.request("POST", "/moto-api/reset")
        assert connection.getresponse().status == 200
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        client = boto3.client("s3")
        client.create_bucket(Bucket=BUCKET)
        yield client
        server.stop()


def fetch(client: Any, folder: Path, prefix: str = "out/") -> None:
    """Copy an output of the bucket into a folder."""
    for entry in client.list_objects_v2(Bucket=BUCKET, Prefix=prefix)["Contents"]:
        path = folder / entry["Key"].removeprefix(prefix)
        path.parent.mkdir(parents=True, exist_ok=True)
        client.download_file(BUCKET, entry["Key"], os.fspath(path))
