"""The documents say what the code does: commands, flags, columns, reasons, settings, messages."""

import ast
import json
import os
import re
import sys
from pathlib import Path

import pytest
import typer
import yaml

from pico_banana.convert.cli import app
from pico_banana.convert.demo.sample_release import make_sample_release
from pico_banana.convert.options import ConvertSettings
from pico_banana.missing import MissingReason
from pico_banana.release.records import BadReason, Line, Record, parse_line
from pico_banana.schema import CONFIGS, EDIT_CATEGORIES, columns, slug_of
from pico_banana.settings import Settings, build_settings
from tests import test_house
from tests.commands import pico_banana, release_flags
from tests.forked import run_script

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
RELEASE_FORMAT = (ROOT / "docs" / "release-format.md").read_text(encoding="utf-8")
DOCUMENTS = {
    os.fspath(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
}
COMMANDS = typer.main.get_command(app).commands
TYPES = {
    "string": "string",
    "strings": "list of string",
    "int32": "int32",
    "int32s": "list of int32",
    "image": "Image",
    "images": "list of Image",
    "attribution": "struct",
}


def section(text, heading):
    """A heading's text, up to the next heading of its level or above."""
    level = re.search(rf"^(#+) {re.escape(heading)}$", text, re.MULTILINE)
    assert level, f"there is no heading {heading!r}"
    rest = text[level.end() :]
    end = re.search(rf"^#{{1,{len(level[1])}}} ", rest, re.MULTILINE)
    return rest[: end.start()] if end else rest


def table(text, first_column=""):
    """The rows of the first table with that first column, as lists of cells."""
    _, _, rest = text.partition(f"\n| {first_column}")
    lines = rest.partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def flags_of(command):
    return {
        flag
        for parameter in command.params
        for flag in (*parameter.opts, *parameter.secondary_opts)
        if flag.startswith("--")
    }


def own_flags(name):
    return {"--help", *flags_of(COMMANDS[name])}


def flag_table():
    """The flags that the README's table gives each command."""
    found = {name: set() for name in COMMANDS}
    for flags, of, _ in table(section(README, "Converting"), "flag |"):
        named = [*COMMANDS] if of == "all" else of.split(", ")
        for name in named:
            found[name] |= set(re.findall(r"--[a-z][a-z-]*", flags))
    return found


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_stands_in_the_readme(name):
    assert f"pico-banana {name}" in section(README, "Converting")


@pytest.mark.parametrize("name", COMMANDS)
def test_the_flag_table_has_each_commands_flags_and_no_other(name):
    assert flag_table()[name] - {"--version"} == own_flags(name)


def test_the_readme_names_no_flag_that_no_command_has():
    known = {"--version"}.union(*map(own_flags, COMMANDS))
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", README)) - known == set()


def column_table(config):
    rows = [(f"`{one.name}`", TYPES[one.kind], one.meaning) for one in columns(config)]
    return "".join(
        f"| {' | '.join(row)} |\n" for row in [("column", "type", "meaning"), ("---",) * 3, *rows]
    )


@pytest.mark.parametrize("config", CONFIGS)
def test_columns_stand_in_the_readme_as_the_schema_has_them(config):
    assert column_table(config) in section(README, f"Columns of {config}"), (
        "run `python -m tests.test_docs --regenerate`"
    )


def test_every_missing_reason_stands_in_the_readme_with_what_follows_from_it():
    told = {
        name: (again, next_) for name, _, again, next_ in table(section(README, "Missing images"))
    }
    again = {None: "yes", 1: "once", 0: "no"}
    assert told == {
        f"`{reason.value}`": (again[reason.retries], "yes" if reason.is_absence else "no")
        for reason in MissingReason
    }


def test_the_command_that_finds_transient_holes_names_the_transient_reasons():
    named = re.search(r'"reason": "\(([a-z_|]+)\)"', README)
    assert named
    transient = {reason.value for reason in MissingReason if reason.is_transient}
    assert set(named[1].split("|")) == transient


def test_every_bad_reason_is_explained():
    told = [name for name, _ in table(section(RELEASE_FORMAT, "Bad records"))]
    assert told == [f"`{reason.value}`" for reason in BadReason]


def test_every_setting_stands_in_the_argument_table():
    told = [name for name, _, _ in table(section(README, "Arguments"))]
    assert sorted(told) == sorted(f"`{name}`" for name in Settings.model_fields)


def test_every_setting_of_the_converter_is_named():
    for name in ConvertSettings.model_fields:
        assert f"`{name}`" in README, name


def test_every_category_slug_is_named():
    for name in EDIT_CATEGORIES:
        assert f"`{slug_of(name)}`" in README, name


def test_the_tested_versions_of_datasets_are_named():
    versions = [
        path.stem.removeprefix("datasets-") for path in (ROOT / "constraints").glob("*.txt")
    ]
    assert len(versions) == 5
    for version in versions:
        assert version in section(README, "Loading"), version


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(name):
    text = DOCUMENTS[name]
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("https://", "http://")):
            continue
        path, _, anchor = target.partition("#")
        linked = (ROOT / name).parent / path if path else ROOT / name
        assert linked.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", linked.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = [re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in headings]
            assert anchor in slugs, target


@pytest.mark.parametrize("name", DOCUMENTS)
def test_files_that_are_named_are_there(name):
    named = re.findall(
        r"`((?:pico_banana|convert|configs|tests|docs|constraints)/[\w./-]*|[A-Z]+\.md|[a-z_]+\.py)`",
        DOCUMENTS[name],
    )
    # In ARCHITECTURE.md, what stands beside the rooms is named by its folder's table.
    folders = [ROOT, ROOT / "pico_banana", ROOT / "convert", ROOT / "tests"]
    for path in named:
        assert any((folder / path).exists() for folder in folders), path


@pytest.mark.parametrize("floor", test_house.FLOORS)
def test_the_floor_plan_has_the_rooms_in_their_order(floor):
    plan = section(DOCUMENTS["ARCHITECTURE.md"], "Floor plan").partition(f"### `{floor}/`")[2]
    told = re.findall(r"^\| `(\w+/|\w+\.py)` \| (.*) \|$", plan.partition("### ")[0], re.MULTILINE)
    expected = []
    for room, files in test_house.ROOMS[floor].items():
        names = [f"{name}.py" for name in files.split() if name != "__init__"] or [f"{room}/"]
        expected += names
    assert [name for name, _ in told] == expected
    for name, knows in told:
        path = ROOT / floor / name
        source = (path / "__init__.py" if path.is_dir() else path).read_text(encoding="utf-8")
        assert ast.get_docstring(ast.parse(source)).splitlines()[0] == f"{knows}."


def test_every_dependency_has_its_reason():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    told = section(DOCUMENTS["ARCHITECTURE.md"], "Dependencies")
    wanted = text.partition("\ndependencies = [")[2].partition("[project.scripts]")[0]
    names = re.findall(r'"([A-Za-z_-]+)(?:\[\w+\])?(?:>=[\d.]+)?"', wanted)
    assert len(names) > 20
    for name in names:
        assert re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", told), name


@pytest.mark.parametrize("name", DOCUMENTS)
def test_python_snippets_compile(name):
    for snippet in blocks(DOCUMENTS[name], "python"):
        compile(snippet, name, "exec")


def test_settings_file_examples_are_valid():
    examples = blocks(README, "yaml")
    assert examples
    for example in examples:
        values = yaml.safe_load(example)
        settings = build_settings(ConvertSettings, {**values, "on_missing": "null"})
        assert settings.fetch.retries == values["fetch"]["retries"]


def test_release_format_examples_are_records():
    sft, multi_turn = blocks(RELEASE_FORMAT, "json")
    for config, line in (("sft", sft), ("multi_turn", multi_turn)):
        assert json.loads(line)
        assert isinstance(parse_line(config, Line(0, line.strip().encode(), 1)), Record)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A folder with what `make demo` leaves in demo-output, of sft."""
    folder = tmp_path_factory.mktemp("demo")
    release = make_sample_release(folder / "demo-output" / "release")
    output = folder / "demo-output" / "parquet"
    made = pico_banana("convert", "sft", *release_flags(release), "--output", output)
    assert made.code == 0, made.err
    return folder


def printing():
    """Snippets of the README that are followed by what they print."""
    return re.findall(
        r"^```python\n([^`]*)^```\n```text\n([^`]*)^```", README, re.MULTILINE | re.DOTALL
    )


def test_converted_and_loaded_snippets_are_shown_with_their_output():
    assert ["demo-output/parquet" in snippet for snippet, _ in printing()] == [True, False]


@pytest.mark.parametrize(("snippet", "printed"), printing())
def test_snippets_print_what_the_readme_says(demo, snippet, printed):
    ran = run_script(snippet, cwd=demo)
    assert ran.code == 0, ran.err
    assert ran.out == printed


def messages():
    """All texts in the code, adjacent pieces put together."""
    nodes = [
        node for path in test_house.MODULES for node in ast.walk(ast.parse(path.read_text("utf-8")))
    ]
    texts = [node.value for node in nodes if isinstance(node, ast.Constant)]
    return [text for text in texts if isinstance(text, str)]


def test_troubleshooting_quotes_messages_that_the_code_has():
    known = messages()
    foreign = {"Please install gcsfs", "Install s3fs"}  # fsspec's
    for quoted, _, _ in table(section(README, "Troubleshooting")):
        for message in set(re.findall(r"`([^`]+)`", quoted.partition(", seen as")[0])) - foreign:
            for part in message.split("…"):
                assert any(part.strip() in text for text in known), part


def regenerate():
    """Put the tables of columns into the README."""
    text = README
    for config in CONFIGS:
        old = section(text, f"Columns of {config}")
        rows = re.compile(r"^\| column .*?(?=^\n)", re.MULTILINE | re.DOTALL)
        new = rows.sub(column_table(config).replace("\\", r"\\"), old)
        text = text.replace(old, new)
    (ROOT / "README.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    assert sys.argv[1:] == ["--regenerate"], "python -m tests.test_docs --regenerate"
    regenerate()
