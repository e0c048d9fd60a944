"""Rename columns for diffusers' Kontext trainer: `python kontext_columns.py OUT FOLDER`.

Then: accelerate launch train_dreambooth_lora_flux_kontext.py --dataset_name FOLDER
--image_column output --cond_image_column file_name --caption_column instruction ...
"""

import sys
from pathlib import Path

from datasets import load_dataset

NAMES = {"edited_image": "output", "input_image": "file_name", "edit_prompt": "instruction"}


def main(source, folder):
    """Write the examples that have both images as Parquet; images are the published files."""
    rows = load_dataset(source, "sft", split="train").select_columns([*NAMES])
    table = rows.with_format("arrow")
    whole = [
        place
        for place, row in enumerate(table)
        if row["input_image"].null_count == row["edited_image"].null_count == 0
    ]
    folder.mkdir(parents=True)
    rows.select(whole).rename_columns(NAMES).to_parquet(folder / "train.parquet")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
