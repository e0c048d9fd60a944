"""Change the project as a newcomer would: a source more, and a measure of images more.

Python imports this where its folder is on the path, so it is there in worker processes too.
"""

from pico_banana import input_sources, schema
from pico_banana.fetching.inspect import ImageFormat

BASE = "https://shelf.example/train/"

input_sources.SOURCES["shelf"] = input_sources.Source(
    title="the shelf",
    input_source="shelf",
    bytes_are="a copy on a shelf",
    finder=input_sources.below_base("shelf", BASE),
    link="shelf",
    bases=(BASE,),
    hosts="shelf.example",
    is_usual=False,
)
schema.MEASURES += (schema.Measure("trial", "string", "format, on trial, of"),)
schema.SCHEMA_VERSION += 1

_measures = ImageFormat.measures
ImageFormat.measures = lambda self: {**_measures(self), "trial": self.format}
