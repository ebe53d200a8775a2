"""The layers, read from the imports; what importing minillm does; what no build file may say."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted((ROOT / "minillm").rglob("*.py"))

# DESIGN.md's numbers, with halves where a layer has a step inside it. The longest prefix counts.
LAYERS = {
    "minillm.errors": 0,
    "minillm.machine": 0,
    "minillm.cache": 0.5,
    "minillm._kernels": 0,
    "minillm.kernels._cffi": 0.5,
    "minillm.kernels": 1,
    "minillm.data": 1,
    "minillm.config": 1,
    "minillm.autograd": 2,
    "minillm.functional": 3,
    "minillm.nn": 4,
    "minillm.optim": 4,
    "minillm.models": 5,
    "minillm.checkpoint": 5,
    "minillm.run": 5.5,  # what train and generate share
    "minillm.evaluate": 5.5,  # train evaluates
    "minillm.train": 6,
    "minillm.generate": 6,
    "minillm.bench": 5.9,  # observe looks at its workload
    "minillm.observe": 6,
    "minillm.flags": 6.4,  # what the commands of the command line share
    "minillm.cli_profile": 6.5,  # two of them
    "minillm.cli": 7,
    "minillm.__main__": 7.5,
}
EXEMPT = "minillm"  # __init__: it gathers the names that a user sees; a module may ask it for them


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def layer_of(module: str) -> float:
    while module not in LAYERS:
        module, dot, _ = module.rpartition(".")
        assert dot, f"{module} stands in no layer: add it to LAYERS"
    return LAYERS[module]


def is_module(name: str) -> bool:
    path = ROOT / name.replace(".", "/")
    return path.is_dir() or path.with_suffix(".py").is_file() or name == "minillm._kernels"


def imports_of(source: str, module: str, is_package: bool = False) -> set[str]:
    """Every module of minillm that the source imports, anywhere in it; relative ones resolved."""
    found = set()
    package = module if is_package else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                found.add(inner if base.startswith("minillm") and is_module(inner) else base)
    return {name for name in found if name.split(".")[0] == "minillm"}


def upward(module: str, imported: set[str]) -> list[str]:
    """The imports that break the rule: lower numbers only, or the same package and number."""
    package = ".".join(module.split(".")[:2])  # minillm.data of minillm.data.tokenizers.bpe
    own = layer_of(module)
    return [
        f"{module} [{own}] imports {name} [{layer_of(name)}]"
        for name in sorted(imported - {EXEMPT})
        if layer_of(name) > own
        or (layer_of(name) == own and not f"{name}.".startswith(f"{package}."))
    ]


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_module_imports_lower_layers_only(path):
    module = name_of(path)
    if module != EXEMPT:
        imported = imports_of(path.read_text(encoding="utf-8"), module, path.name == "__init__.py")
        assert upward(module, imported) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("minillm.kernels.softmax", "from minillm.autograd import Tensor"),
        ("minillm.kernels._cffi", "from minillm import kernels"),
        ("minillm.autograd", "def f():\n    import minillm.functional as F"),
        ("minillm.nn.layers", "from ..models import gpt"),
        ("minillm.nn.layers", "from minillm import optim"),
        ("minillm.data.batches", "if True:\n    from .. import autograd"),
        ("minillm.train", "from minillm.observe import doctor"),
    ],
)
def test_upward_import_is_seen_in_every_spelling(module, source):
    assert upward(module, imports_of(source, module))


def test_only_the_command_line_asks_for_the_whole_package():
    """`import minillm` from inside would be an upward import that hides its target."""
    users = {
        name_of(path)
        for path in MODULES
        if EXEMPT in imports_of(path.read_text(encoding="utf-8"), name_of(path))
    }
    # They print its __version__, or name a file after it.
    assert users <= {"minillm.cli", "minillm.observe.doctor", "minillm.observe.roofs"}


def test_the_one_look_up_in_sys_modules_is_autograds():
    users = {name_of(p) for p in MODULES if "sys.modules" in p.read_text(encoding="utf-8")}
    assert users == {"minillm.autograd"}
    late = {name_of(p) for p in MODULES if "import_module" in p.read_text(encoding="utf-8")}
    assert late == {"minillm", "minillm.autograd"}


def test_only_cffi_module_mentions_the_compiled_module():
    """Names of functions such as _set_up_kernels are no mention."""
    mention = re.compile(r"(?<![a-z_])_kernels(?![a-z_(])|_cffi_backend")
    users = {name_of(p) for p in MODULES if mention.search(p.read_text(encoding="utf-8"))}
    assert users == {"minillm.kernels._cffi"}


def test_ffi_and_lib_are_used_by_kernels_only():
    use = re.compile(r"(?<!numpy\.)\b(ffi|lib)\.\w")
    users = {name_of(p) for p in MODULES if use.search(p.read_text(encoding="utf-8"))}
    assert {user.rpartition(".")[0] for user in users} == {"minillm.kernels"}


def test_build_script_imports_nothing_of_minillm():
    for script in (ROOT / "csrc" / "build_ffi.py", ROOT / "setup.py"):
        assert imports_of(script.read_text(encoding="utf-8"), "") == set()


# What importing does.

SPY = """
import sys
import minillm
heavy = {"torch", "matplotlib", "hypothesis", "pytest", "tqdm", "safetensors", "argparse"}
loaded = sorted(heavy & set(sys.modules))
assert not loaded, loaded
assert not minillm.kernels.observers and not minillm.autograd.observers
"""


def test_import_prints_nothing_warns_nothing_and_loads_nothing_heavy():
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", SPY], cwd=ROOT, capture_output=True, text=True
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_module_prints_nothing_when_imported(path):
    """No call of print, and no expression but docstrings, at the level that runs on import."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Expr) and not isinstance(node.value, ast.Constant):
            assert "print" not in ast.unparse(node)


# What C and the build files may not say.

C_FILES = sorted((ROOT / "csrc").rglob("*.[ch]"))
BUILD_FILES = [ROOT / "setup.py", ROOT / "pyproject.toml", ROOT / "csrc" / "build_ffi.py", *C_FILES]


@pytest.mark.parametrize("path", C_FILES, ids=lambda p: p.name)
def test_c_asks_no_target_macro_of_the_compiler(path):
    """A target region changes what may be used, not what the compiler was started with."""
    if path.name != "simd.h" and path.parent.name != "targets":
        assert not re.search(r"__(AVX|FMA|SSE|ARM_NEON)\w*", path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", BUILD_FILES, ids=lambda p: p.name)
def test_build_uses_no_flag_that_breaks_floats_or_portability(path):
    flags = r"-ffast-math|-Ofast|-march=|-mavx|-mfma|-funsafe-math|-fassociative-math|target_clones"
    assert not re.search(flags, path.read_text(encoding="utf-8"))
