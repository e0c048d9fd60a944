"""Lines that a JSONL file may hold, good, odd and broken ones, as strategies of hypothesis."""

import json

from hypothesis import strategies as st

from tests.release_lines import MAKE

NUMBERS = ["0", "-0", "1e999", "-1E-999", "9" * 400, "9" * 5000, "NaN", "-Infinity", "0x1", "01"]
TEXTS = ['"\\ud800"', '"\\udfff\\ud800"', '"\\u0000"', '"\U0001f642"', '"\xff"', '"', "'a'"]
VALUES = st.sampled_from([*NUMBERS, *TEXTS, "null", "true", "{}", "[]", '[["id"]]', "{,}"])
DEEP = st.builds(
    lambda opens, closes, depth: opens * depth + closes * depth,
    *(st.sampled_from(['{"a":', "[", '[{"a":']), st.sampled_from(["}", "]", "", "}]"])),
    st.sampled_from([1, 60, 1100, 100_000]),
)


def as_line(config, changes, doubled):
    """A record of the config, some of its values other ones, and some keys twice."""
    pairs = [(name, json.dumps(value)) for name, value in MAKE[config]().items()]
    pairs = [(name, changes.get(name, value)) for name, value in pairs]
    pairs += [(name, text) for name, text in changes.items() if name in doubled]
    return "{" + ", ".join(f"{json.dumps(name)}: {text}" for name, text in pairs) + "}"


NAMES = st.sampled_from([*MAKE["preference"](), *MAKE["multi_turn"](), "note"])


def lines_of(config):
    good = st.builds(as_line, st.just(config), st.just({}), st.just(set()))
    odd = st.builds(
        as_line, st.just(config), st.dictionaries(NAMES, VALUES | DEEP, max_size=3), st.sets(NAMES)
    )
    text = good | odd | VALUES | DEEP
    encoded = text.map(lambda line: line.encode("utf-8", "surrogatepass"))
    blank = st.sampled_from([b"", b" ", b"\t", b"\x0b", b"\xa0", b"\r", b"\xef\xbb\xbf"])
    latin = good.map(lambda line: line.encode().replace(b"fence", b"f\xe9nce"))
    return encoded | encoded | blank | latin | st.binary(max_size=30)
