"""Write files and metadata.csv for DiffSynth-Studio: `python to_diffsynth.py OUT FOLDER`.

`image` is the edited image, `edit_image` the input, `prompt` the instruction. The images are the
published files, to the bit.
"""

import csv
import sys
from pathlib import Path

from datasets import Image, load_dataset


def main(source, folder):
    """Write one line, and two files, for each example that has both images."""
    rows = load_dataset(source, "sft", split="train", streaming=True)
    for column in ("input_image", "edited_image"):
        rows = rows.cast_column(column, Image(decode=False))
    (folder / "images").mkdir(parents=True)
    with (folder / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "edit_image", "prompt"])
        for number, row in enumerate(rows):
            names = []
            for image in (row["edited_image"], row["input_image"]):
                if image is not None:
                    # Base names are not unique, numbers are.
                    names.append(f"images/{number:06d}-{Path(image['path']).name}")
                    (folder / names[-1]).write_bytes(image["bytes"])
            if len(names) == 2:
                writer.writerow([*names, row["edit_prompt"]])


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
