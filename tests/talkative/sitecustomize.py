"""Let worker processes print as careless libraries do; Python imports this where it is on the path.

At each image that a worker opens, a line goes to both standard streams, and to descriptors 1 and 2.
"""

import contextlib
import multiprocessing
import os
import sys


def _chat(event, arguments):
    is_image = event == "open" and str(arguments[0]).endswith((".png", ".jpg"))
    if is_image and multiprocessing.parent_process() is not None:
        for number, stream in ((1, sys.stdout), (2, sys.stderr)):
            with contextlib.suppress(OSError):
                os.write(number, b"by the way\n")
            print("by the way", file=stream, flush=True)


sys.addaudithook(_chat)
