"""Records as the lines of the release hold them."""

from typing import Any

PHOTO = "https://farm5.staticflickr.com/4012/4300123456_0a1b2c3d4e_o.jpg"
ABSENT: Any = object()  # of a field that a record does not have


def sft(**changes):
    fields = {
        "open_image_input_url": PHOTO,
        "text": "Paint the fence green and leave everything else alone.",
        "output_image": "images/positive-edit/71.png",
        "edit_type": "Zoom in",
        "summarized_text": "Paint the fence green.",
    }
    return with_changes(fields, changes)


def preference(**changes):
    rejected = ["nano-banana-300k/images/rejected-edit/5.png"]
    return with_changes({**sft(), "rejected_images": rejected}, changes)


def multi_turn(turns=3, order=None, **changes):
    stem = "images/multi-turn/12_attemptA_turn"
    files = [{"id": f"edit_turn{n}", "url": f"{stem}{n}.png"} for n in range(1, turns)]
    files.append({"id": "final_image", "url": f"{stem}{turns}.png"})
    files.append({"id": "original_input_image", "url": PHOTO})
    if order is not None:
        order.shuffle(files)
    prompts = [f"Turn number {n}" for n in range(1, turns + 1)]
    return with_changes({"files": files, "metadata_edit_turn_prompts": prompts}, changes)


def with_changes(fields, changes):
    return {name: value for name, value in {**fields, **changes}.items() if value is not ABSENT}


MAKE = {"sft": sft, "preference": preference, "multi_turn": multi_turn}
