"""Write one row for each rejected image: `python to_dpo_pairs.py OUT pairs.parquet`.

Columns: input_image, prompt, chosen_image, rejected_image; the images are the published files.
"""

import sys

from datasets import Dataset, Features, Image, Value, load_dataset

FEATURES = Features(
    {
        "input_image": Image(),
        "prompt": Value("string"),
        "chosen_image": Image(),
        "rejected_image": Image(),
    }
)


def pairs(source):
    """Yield a row for each rejected image, images as {bytes, path}."""
    # By tables, images stay the bytes that they are.
    for table in load_dataset(source, "preference", split="train").with_format("arrow"):
        (row,) = table.to_pylist()
        for rejected in row["rejected_images"]:
            if None not in (rejected, row["input_image"], row["chosen_image"]):
                yield {
                    "input_image": row["input_image"],
                    "prompt": row["edit_prompt"],
                    "chosen_image": row["chosen_image"],
                    "rejected_image": rejected,
                }


if __name__ == "__main__":
    made = Dataset.from_generator(pairs, features=FEATURES, gen_kwargs={"source": sys.argv[1]})
    made.to_parquet(sys.argv[2])
    print(f"{len(made)} pairs")
