"""The scripts in examples/, run on a converted sample release."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import datasets
import pyarrow.parquet as pq
import pytest

from pico_banana.convert.demo.sample_release import SampleRelease, make_sample_release
from tests.commands import pico_banana, release_flags, rows
from tests.forked import run_script

EXAMPLES = Path(__file__).parents[1] / "examples"
MOST_LINES = 45


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> SampleRelease:
    root = tmp_path_factory.mktemp("release")
    return make_sample_release(root, sft=24, preference=8, size=(96, 64))


@pytest.fixture(scope="module")
def output(release: SampleRelease, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("output") / "out"
    flags = [*release_flags(release), "--output", out]
    assert pico_banana("convert", "sft", "preference", *flags).code == 0
    return out


def run(name: str, *words: str | Path) -> str:
    ended = run_script(EXAMPLES / name, *words)
    assert ended.code == 0, ended.err
    return ended.out


def test_files_and_a_table_for_diffsynth(output: Path, tmp_path: Path) -> None:
    folder = tmp_path / "diffsynth"
    run("to_diffsynth.py", output, folder)
    with (folder / "metadata.csv").open(newline="", encoding="utf-8") as file:
        made = list(csv.DictReader(file))
    published = rows(output, "sft")
    assert len(made) == len(published) == 24
    for line, row in zip(made, published, strict=True):
        assert line["prompt"] == row["edit_prompt"]
        assert (folder / line["image"]).read_bytes() == row["edited_image"]["bytes"]
        assert (folder / line["edit_image"]).read_bytes() == row["input_image"]["bytes"]


def test_a_row_for_each_rejected_image(output: Path, tmp_path: Path) -> None:
    path = tmp_path / "pairs.parquet"
    said = run("to_dpo_pairs.py", output, path)
    expected = [
        (row["edit_prompt"], row["chosen_image"]["bytes"], rejected["bytes"])
        for row in rows(output, "preference")
        for rejected in row["rejected_images"]
    ]
    assert len(expected) > 8
    made = pq.read_table(path).to_pylist()
    found = [
        (row["prompt"], row["chosen_image"]["bytes"], row["rejected_image"]["bytes"])
        for row in made
    ]
    assert found == expected
    assert said.strip() == f"{len(expected)} pairs"


def test_columns_for_the_kontext_trainer(output: Path, tmp_path: Path) -> None:
    run("kontext_columns.py", output, tmp_path / "kontext")
    made = pq.read_table(tmp_path / "kontext" / "train.parquet").to_pylist()
    published = rows(output, "sft")
    assert [row["instruction"] for row in made] == [row["edit_prompt"] for row in published]
    assert [row["output"]["bytes"] for row in made] == [
        row["edited_image"]["bytes"] for row in published
    ]
    loaded = datasets.load_dataset(os.fspath(tmp_path / "kontext"), split="train")
    assert {*loaded.column_names} == {"output", "file_name", "instruction"}


def test_batches_for_torch(output: Path) -> None:
    pytest.importorskip("torch")
    lines = run("torch_dataloader.py", output).splitlines()
    assert len(lines) == 5
    assert all("(4, 3, 256, 256)" in line for line in lines)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_examples_are_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES
