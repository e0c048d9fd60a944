"""Train on the stream with PyTorch: `python torch_dataloader.py OUT_OR_pico_banana_400k`."""

import random
import sys

import numpy as np
import torch
from datasets import load_dataset

import pico_banana_400k  # noqa: F401  (registers the name)

SIZE = 256


def crop(row):
    """Bring both images to one size, and cut the same square out of them."""
    photo, edit = row["input_image"].convert("RGB"), row["edited_image"].convert("RGB")
    # The edit is the larger one, and need not keep the photo's ratio.
    scale = max(1.0, SIZE / min(photo.size))
    size = [max(SIZE, round(side * scale)) for side in photo.size]
    left, top = random.randint(0, size[0] - SIZE), random.randint(0, size[1] - SIZE)
    box = (left, top, left + SIZE, top + SIZE)
    pair = [np.asarray(one.resize(size).crop(box)) for one in (photo, edit)]
    tensors = [torch.from_numpy(one.copy()).permute(2, 0, 1) / 127.5 - 1 for one in pair]
    return {"input": tensors[0], "edited": tensors[1], "prompt": row["edit_prompt"]}


def collate(rows):
    """Make a batch: images [N, 3, 256, 256] in -1..1, and N prompts."""
    batch = {name: torch.stack([row[name] for row in rows]) for name in ("input", "edited")}
    return {**batch, "prompts": [row["prompt"] for row in rows]}


if __name__ == "__main__":
    stream = load_dataset(sys.argv[1], "sft", split="train", streaming=True)
    stream = stream.shuffle(seed=1, buffer_size=64).map(crop, remove_columns=stream.column_names)
    loader = torch.utils.data.DataLoader(stream, batch_size=4, num_workers=2, collate_fn=collate)
    for step, batch in enumerate(loader):
        print(step, tuple(batch["edited"].shape), batch["prompts"][0][:60])
        if step == 4:
            break
