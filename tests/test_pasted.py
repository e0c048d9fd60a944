"""What is printed to be pasted works when it is pasted: Python code, and shell commands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pico_banana.convert.demo.sample_release import SampleRelease
from tests.commands import pico_banana, release_flags

pytestmark = pytest.mark.long

NAMES = [
    "plain",
    "[data] v1",
    "a*b",
    'it\'s "quoted"',
    "back\\slash",
    "$HOME x",
    "a::b",
    "new\nline",
    os.fsdecode(b"caf\xe9"),
]


def test_a_demo_says_at_once_where_it_could_not_load(tmp_path: Path) -> None:
    ended = pico_banana("demo", "--output", tmp_path / "[data] v1")
    assert ended.code == 2
    assert "--output must be a folder that load_dataset finds" in ended.err
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("name", NAMES)
def test_what_is_printed_works_when_pasted(
    release: SampleRelease, tmp_path: Path, name: str
) -> None:
    output = tmp_path / name
    words = ["convert", "sft", "--limit", "4", "--output", output, *release_flags(release)]
    sliced = pico_banana(*words, "--slice", "0/1")
    assert sliced.code == 0, sliced.err
    [command] = re.findall(r"when all are, `(.*)` writes the card", sliced.err)
    called = f'pico-banana() {{ {sys.executable} -m pico_banana.convert "$@"; }}; {command}'
    finished = subprocess.run(
        ["bash", "-c", called], capture_output=True, text=True, timeout=60, check=False
    )
    assert finished.returncode == 0, finished.stderr
    [code] = re.findall(r"Load it with: (.*)", finished.stdout)
    assert code.startswith("load_dataset(") == (name in ("plain", *NAMES[3:5], "new\nline"))
    *before, call = code.split("; ")
    pasted = f"from datasets import load_dataset; {'; '.join([*before, f'found = {call}'])}"
    loaded = subprocess.run(
        [sys.executable, "-c", f"{pasted}; print(len(found['train']))"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (loaded.returncode, loaded.stdout) == (0, "4\n"), loaded.stderr
