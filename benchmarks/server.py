"""Serve a folder on loopback from a process of its own, each answer some milliseconds late.

`python -m benchmarks.server FOLDER --delay-ms 50` prints its URL, and serves until its standard
input is closed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from aiohttp import web

__all__ = ["serving"]


@contextlib.contextmanager
def serving(folder: Path, delay_s: float = 0) -> Iterator[str]:
    """Serve a folder while the block runs; give the URL."""
    words = [sys.executable, "-m", "benchmarks.server", str(folder)]
    with subprocess.Popen(  # noqa: S603
        [*words, "--delay-ms", str(1000 * delay_s)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.stdin.close()


async def _serve(folder: Path, delay_s: float) -> None:
    @web.middleware
    async def late(request: web.Request, handler: web.RequestHandler) -> web.StreamResponse:
        await asyncio.sleep(delay_s)
        return await handler(request)

    app = web.Application(middlewares=[late] if delay_s else [])
    app.router.add_static("/", folder)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    sys.stdout.write(f"http://127.0.0.1:{runner.addresses[0][1]}\n")
    sys.stdout.flush()
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await runner.cleanup()


def main() -> None:
    """Serve until nobody is there any more."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.server", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--delay-ms", type=float, default=0)
    given = parser.parse_args()
    asyncio.run(_serve(given.folder, given.delay_ms / 1000))


if __name__ == "__main__":
    main()
