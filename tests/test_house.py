"""The house stands as ARCHITECTURE.md says: imports, packaging, first lines, nothing foreign."""

import ast
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import pico_banana

ROOT = Path(__file__).parent.parent
LOADER = ROOT / "pico_banana_400k.py"
LIBRARY = sorted((ROOT / "pico_banana").glob("*.py"))
CONVERTER = sorted((ROOT / "convert").glob("*.py"))
MODULES = [LOADER, *LIBRARY, *CONVERTER]


def name_of(path):
    return os.fspath(path.relative_to(ROOT))


def imports(path):
    """What a module imports, wherever in it: dotted names, relative ones with their dots."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            yield base
            yield from (
                f"{base.rstrip('.')}.{alias.name}" for alias in node.names if not node.level
            )


def within(name, package):
    return name == package or name.startswith(f"{package}.")


def imported(path, *packages):
    return [name for name in imports(path) if any(within(name, package) for package in packages)]


@pytest.mark.parametrize("path", LIBRARY, ids=name_of)
def test_the_library_imports_neither_loader_nor_converter(path):
    assert imported(path, "pico_banana_400k", "pico_banana.convert", "convert") == []
    assert [name for name in imports(path) if name.startswith(".")] == []


@pytest.mark.parametrize("path", LIBRARY, ids=name_of)
def test_the_library_knows_no_parquet_file_no_command_line_and_no_hub(path):
    foreign = ("pyarrow.parquet", "typer", "click", "rich", "huggingface_hub", "ray")
    assert imported(path, *foreign) == []


def test_the_loader_does_not_import_the_converter():
    assert imported(LOADER, "pico_banana.convert", "convert") == []


@pytest.mark.parametrize("path", CONVERTER, ids=name_of)
def test_the_converter_imports_siblings_relatively_and_never_the_loader(path):
    assert imported(path, "pico_banana_400k", "pico_banana.convert", "convert") == []
    siblings = {one.stem for one in CONVERTER}
    for name in imports(path):
        if name.startswith("."):
            assert re.fullmatch(r"\.(\w+)", name), name
            assert name[1:] in siblings, name


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_the_first_line_of_a_module_is_one_sentence(path):
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert docstring, "there is no docstring"
    first = docstring.splitlines()[0]
    assert first.endswith(".")
    assert not re.search(r"[.!?] [A-Z]", first), "more than one sentence"


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
    expected |= {f"pico_banana/{path.name}" for path in LIBRARY}
    expected |= {f"pico_banana/convert/{path.name}" for path in CONVERTER}
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
