"""The house stands as ARCHITECTURE.md says: imports, packaging, first lines, nothing foreign."""

import ast
import graphlib
import importlib.metadata
import importlib.util
import os
import pkgutil
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import pico_banana
from pico_banana.convert.running import processes

ROOT = Path(__file__).parent.parent
LOADER = ROOT / "pico_banana_400k.py"
LIBRARY = sorted(
    path
    for path in (ROOT / "pico_banana").rglob("*.py")
    if not path.is_relative_to(ROOT / "pico_banana" / "convert")  # a link
)
CONVERTER = sorted((ROOT / "convert").rglob("*.py"))
MODULES = [LOADER, *LIBRARY, *CONVERTER]

# From the ground up: a file imports only from its own room and from rooms before it. What stands
# in a room's folder belongs to the room; of what stands beside the rooms, each is named here.
ROOMS = {
    "pico_banana": {
        "ground": "__init__ errors missing urls arrow input_sources schema setting_types settings",
        **dict.fromkeys(("hosts", "storage", "release", "open_images", "fetching", "reading"), ""),
    },
    "convert": {
        "ground": "__init__ signals streams text screen interpreter open_files options",
        **dict.fromkeys(("demo", "output", "planning", "running", "publishing", "reporting"), ""),
        "top": "conversion finish cli __main__",
    },
}
FLOORS = ["pico_banana", "convert"]
ORDER = [(floor, room) for floor in FLOORS for room in ROOMS[floor]]


def name_of(path):
    return os.fspath(path.relative_to(ROOT))


def module_of(path):
    """The dotted name by which a file is imported."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts[0] == "convert":
        parts = ("pico_banana", *parts)
    return ".".join(parts).removesuffix(".__init__")


PATH_OF = {module_of(path): path for path in MODULES}


def room_of(path):
    """A file's floor and room; None where it is in no room."""
    floor, *folders, name = path.relative_to(ROOT).parts
    if folders:
        return (floor, folders[0]) if folders[0] in ROOMS[floor] else None
    rooms = [room for room, files in ROOMS[floor].items() if Path(name).stem in files.split()]
    return (floor, rooms[0]) if rooms else None


def imports(path):
    """What a module imports, wherever in it, lazily and for types too: absolute dotted names."""
    package = module_of(path) if path.name == "__init__.py" else module_of(path).rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def imported_files(path):
    """The project's files that a module imports."""
    return {PATH_OF[name] for name in imports(path) if name in PATH_OF} - {path}


def within(name, package):
    return name == package or name.startswith(f"{package}.")


def imported(path, *packages):
    return [name for name in imports(path) if any(within(name, package) for package in packages)]


@pytest.mark.parametrize("path", [*LIBRARY, *CONVERTER], ids=name_of)
def test_a_file_stands_in_a_room_and_imports_only_from_those_before_it(path):
    room = room_of(path)
    assert room is not None, "it stands in no room: see ROOMS above, and ARCHITECTURE.md"
    later = ORDER[ORDER.index(room) + 1 :]
    assert [name_of(one) for one in imported_files(path) if room_of(one) in later] == []


def test_every_room_has_files():
    assert {room_of(path) for path in [*LIBRARY, *CONVERTER]} == {*ORDER}


def test_no_file_imports_itself_by_way_of_others():
    # A room's own docstring file imports nothing, and is imported with every file of the room.
    graph = {path: imported_files(path) for path in MODULES}
    try:
        order = [*graphlib.TopologicalSorter(graph).static_order()]
    except graphlib.CycleError as error:
        raise AssertionError(" <- ".join(map(name_of, error.args[1]))) from None
    assert len(order) == len(MODULES) > 80


@pytest.mark.parametrize("path", LIBRARY, ids=name_of)
def test_the_library_imports_neither_loader_nor_converter(path):
    assert imported(path, "pico_banana_400k", "pico_banana.convert", "convert") == []


@pytest.mark.parametrize("path", LIBRARY, ids=name_of)
def test_the_library_knows_no_parquet_file_no_command_line_and_no_hub(path):
    foreign = ("pyarrow.parquet", "typer", "click", "rich", "huggingface_hub", "ray")
    assert imported(path, *foreign) == []


def test_the_loader_does_not_import_the_converter():
    assert imported(LOADER, "pico_banana.convert", "convert") == []


@pytest.mark.parametrize("path", CONVERTER, ids=name_of)
def test_the_converter_imports_itself_relatively_and_never_the_loader(path):
    tree = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    named = [node.module for node in tree if isinstance(node, ast.ImportFrom) and not node.level]
    foreign = ("pico_banana_400k", "pico_banana.convert", "convert")
    assert [name for name in named if any(within(name, package) for package in foreign)] == []


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_the_first_line_of_a_module_is_one_sentence(path):
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert docstring, "there is no docstring"
    first = docstring.splitlines()[0]
    assert first.endswith(".")
    assert not re.search(r"[.!?] [A-Z]", first), "more than one sentence"


ROOM_FOLDERS = [ROOT / floor / room for floor, room in ORDER if room not in ("ground", "top")]


@pytest.mark.parametrize("folder", ROOM_FOLDERS, ids=name_of)
def test_a_room_says_what_it_knows_and_names_its_files(folder):
    docstring = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8")))
    told = re.findall(r"^\| `(\w+)` \|", docstring or "", re.MULTILINE)
    assert sorted(told) == sorted(
        path.stem for path in folder.glob("*.py") if path.stem[:2] != "__"
    )


def strings():
    """Names of modules that stand in strings: who moves a module may forget them."""
    for path in [
        *MODULES,
        *sorted((ROOT / "tests").rglob("*.py")),
        *(ROOT / "benchmarks").glob("*.py"),
    ]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                for name in re.findall(r"\bpico_banana(?:\.\w+)+", node.value):
                    yield name, name_of(path)


@pytest.mark.parametrize(("name", "path"), sorted({*strings()}))
def test_a_module_that_a_string_names_is_there(name, path):
    assert pkgutil.resolve_name(name) is not None, path


def test_what_workers_load_first_is_there():
    assert processes.LOADED in PATH_OF


def test_the_installed_version_is_that_of_the_project():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    version = re.search(r'^version = "(.+)"$', text, re.MULTILINE)
    assert version
    try:
        installed = importlib.metadata.version("pico-banana-400k")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("the project is not installed")
    assert installed == pico_banana.__version__ == version[1]


def test_the_links_are_links():
    for name in ("convert", "configs"):
        link = ROOT / "pico_banana" / name
        assert link.is_symlink(), "this checkout has no symbolic links; see ARCHITECTURE.md"
        assert os.readlink(link) == f"../{name}"


def files():
    """The project's files: tracked ones, and new ones that are not ignored."""
    listed = subprocess.run(
        # A checkout that another user owns is no danger to a listing.
        ["git", "-c", "safe.directory=*", "ls-files", "-z", "-co", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    names = [name for name in listed.stdout.decode().split("\0") if name]
    return [name for name in names if os.path.lexists(ROOT / name)]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel of the project's files, built outside of the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in files():
        (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / "source" / name, follow_symlinks=False)
    pip(
        *("wheel", "--no-build-isolation", "--no-deps", "--no-index"),
        *("--wheel-dir", folder / "dist", folder / "source"),
    )
    (made,) = (folder / "dist").glob("*.whl")
    return made


def pip(*words):
    ended = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(os.fspath, words)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


def run_elsewhere(cwd, *words, path=None):
    """Run Python from another folder, with `path` before what is installed."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if path is not None:
        env["PYTHONPATH"] = os.fspath(path)
    ended = subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, cwd=cwd, env=env, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_the_wheel_holds_the_house_and_no_bare_convert_or_configs(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {"pico_banana_400k.py", "pico_banana/py.typed"}
    expected |= {name_of(path) for path in LIBRARY}
    expected |= {f"pico_banana/{name_of(path)}" for path in CONVERTER}
    expected |= {f"pico_banana/configs/{path.name}" for path in (ROOT / "configs").glob("*.yaml")}
    assert {name for name in names if ".dist-info/" not in name} == expected


def test_the_wheel_works_where_it_is_installed(wheel, tmp_path):
    target, cwd = tmp_path / "target", tmp_path / "elsewhere"
    cwd.mkdir()
    pip("install", "--no-deps", "--no-index", "--target", target, wheel)
    listed = run_elsewhere(cwd, "-m", "pico_banana.convert", "types", path=target)
    assert "257,730" in listed
    where = run_elsewhere(cwd, "-c", FIND, path=target).split()
    assert [Path(path).is_relative_to(target.resolve()) for path in where[:3]] == [True] * 3
    assert where[3] == "jsonl/sft.jsonl"


FIND = """
import os, pico_banana, pico_banana.convert.cli, pico_banana.settings
for module in (pico_banana, pico_banana.convert.cli, pico_banana.settings):
    print(os.path.realpath(module.__file__))
print(pico_banana.settings.config_spec("sft").jsonl)
"""


def test_what_is_installed_here_finds_its_configs_from_elsewhere(tmp_path):
    try:
        importlib.metadata.version("pico-banana-400k")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("the project is not installed")
    where = run_elsewhere(tmp_path, "-c", FIND).split()
    assert where[3] == "jsonl/sft.jsonl"
    assert "257,730" in run_elsewhere(tmp_path, "-m", "pico_banana.convert", "types")


# Put together here, so that this file itself names none of them.
FOREIGN = [
    *("/" + name + "/" for name in ("work", "root", "home", "Users")),
    *("pypi" + ".org", "python" + "hosted", "index" + "-url", "trusted" + "-host"),
    *("find" + "-links", "arti" + "factory", "dev" + "pi"),
]


def test_no_file_names_an_index_or_a_path_of_a_machine():
    found = {}
    for name in files():
        if not (ROOT / name).is_symlink():
            text = (ROOT / name).read_bytes().decode("utf-8", errors="replace")
            found[name] = [word for word in FOREIGN if word in text]
    assert len(found) > 50
    assert {name: words for name, words in found.items() if words} == {}
