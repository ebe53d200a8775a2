"""The build variants, each from a copy of the tree: OpenMP or not, gcc, clang, no compiler, MSVC.

Four of these compile everything, 5 s each: `--ignore=tests/test_build.py` leaves them out. A
compiler here is a script that can refuse a flag, and leaves the optimiser out (-O0) for speed.
"""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path

import pytest

pytest.importorskip("setuptools", "77", reason="pyproject.toml's license key needs setuptools 77")
pytestmark = pytest.mark.skipif(os.name != "posix", reason="the compilers are shell scripts")
needs_gcc = pytest.mark.skipif(not shutil.which("gcc"), reason="no gcc")

ROOT = Path(__file__).resolve().parent.parent
FILES = ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "minillm", "csrc")


def copy_tree(folder: Path) -> Path:
    """What a build needs, without what another build left."""
    skip = shutil.ignore_patterns("__pycache__", "*.so", "*.egg-info", "_kernels.c")
    for name in FILES:
        source, to = ROOT / name, folder / "tree" / name
        if source.is_dir():
            shutil.copytree(source, to, ignore=skip)
        else:
            to.parent.mkdir(exist_ok=True)
            shutil.copy(source, to)
    return folder / "tree"


@pytest.fixture
def tree(tmp_path):
    return copy_tree(tmp_path)


def python(tree: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess:
    """Python in the tree, which therefore imports the tree's minillm.

    -S: an editable install would lend its compiled module to a tree that has none.
    """
    clean = {k: v for k, v in os.environ.items() if not k.startswith("MINILLM_")}
    sites = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
    clean["PYTHONPATH"] = os.pathsep.join([str(tree), *sites])
    return subprocess.run(
        [sys.executable, "-S", *arguments],
        cwd=tree,
        env=clean | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def build(tree: Path, **variables: str) -> subprocess.CompletedProcess:
    return python(tree, "setup.py", "build_ext", "--inplace", **variables)


def compiler(tree: Path, name: str, refuse: str = " nothing ") -> str:
    """A compiler that leaves the optimiser out, and does not know the option `refuse`."""
    script = tree.parent / f"{name}-wrapped"
    script.write_text(
        f'#!/bin/sh\ncase " $* " in *"{refuse}"*) echo "what is {refuse}?" >&2; exit 1;; esac\n'
        f'exec {shutil.which(name)} "$@" -O0\n'
    )
    script.chmod(0o755)
    return str(script)


def assert_builds(result: subprocess.CompletedProcess, tree: Path) -> None:
    assert result.returncode == 0, result.stdout[-4000:]
    assert list((tree / "minillm").glob("_kernels*"))


WORK = """
import numpy as np, minillm as ml, minillm.functional as F
from minillm import optim
from minillm.models import GPT, GPTConfig
model = GPT(GPTConfig(7, 8, 1, 2, 16, dropout=0.1))
ids = np.arange(16).reshape(2, 8) % 7
optimizer = optim.AdamW(model.parameters(), 1e-2)
for _ in range(20):
    _, loss = model(ids, (ids + 1) % 7)
    loss.backward()
    optim.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
assert loss.item() < 1.5, loss
assert model.generate([3], 12, rng=np.random.default_rng(0)).shape == (13,)
"""
INFO = "import json, minillm.kernels as k; print(json.dumps(k.info()))"


def info(tree: Path) -> dict:
    return json.loads(python(tree, "-c", INFO).stdout)


def assert_works(tree: Path) -> None:
    result = python(tree, "-W", "error", "-c", WORK)
    assert (result.returncode, result.stdout) == (0, "")


# A product and a softmax large enough for several chunks.
DIGEST = """
import hashlib, numpy as np
from minillm import kernels
a = np.random.default_rng(0).standard_normal((300, 200)).astype(np.float32)
y = kernels.softmax(kernels.matmul(a, a, trans_b=True))
print(hashlib.sha256(y.tobytes()).hexdigest())
"""


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    """(an sdist, unpacked and built with OpenMP; the names in it)."""
    tree = copy_tree(tmp_path_factory.mktemp("sdist"))
    result = python(tree, "setup.py", "-q", "sdist")
    assert result.returncode == 0, result.stdout
    (archive,) = (tree / "dist").glob("minillm-*.tar.gz")
    with tarfile.open(archive) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
        tar.extractall(tree.parent, filter="data")
    unpacked = tree.parent / archive.name.removesuffix(".tar.gz")
    assert_builds(build(unpacked, CC=compiler(unpacked, "gcc"), MINILLM_OPENMP="1"), unpacked)
    return unpacked, names


@needs_gcc
def test_sdist_holds_what_a_build_needs_and_no_binaries(unpacked):
    _, names = unpacked
    wanted = {p.relative_to(ROOT).as_posix() for p in (ROOT / "csrc").rglob("*.[ch]")}
    wanted |= {p.relative_to(ROOT).as_posix() for p in (ROOT / "minillm").rglob("*.py")}
    wanted |= {"csrc/build_ffi.py", "setup.py", "pyproject.toml", "LICENSE", "README.md"}
    assert wanted <= names
    assert not [name for name in names if name.endswith((".so", ".pyc", ".o"))]


@needs_gcc
def test_sdist_builds_with_openmp(unpacked):
    tree, _ = unpacked
    assert info(tree)["openmp"] is True
    assert_works(tree)


@needs_gcc
def test_build_without_openmp_gives_the_same_bits(tree, unpacked):
    assert_builds(build(tree, CC=compiler(tree, "gcc"), MINILLM_OPENMP="0"), tree)
    found = info(tree)
    assert found["compiled"]
    assert found["openmp"] is False
    assert found["threads"] == 1
    one = python(tree, "-c", DIGEST)
    many = python(unpacked[0], "-c", DIGEST, MINILLM_NUM_THREADS="3")
    assert (one.returncode, len(one.stdout)) == (0, 65), one.stdout
    assert one.stdout == many.stdout


@needs_gcc
def test_compiler_without_openmp_builds_for_one_thread_and_says_so(tree):
    result = build(tree, CC=compiler(tree, "gcc", refuse="-fopenmp"))
    assert_builds(result, tree)
    assert "OpenMP not found: the kernels will use one thread" in result.stdout
    assert info(tree)["openmp"] is False
    assert_works(tree)


@needs_gcc
def test_openmp_that_is_demanded_and_missing_is_an_error(tree):
    CC = compiler(tree, "gcc", refuse="-fopenmp")
    result = build(tree, CC=CC, MINILLM_OPENMP="1", MINILLM_REQUIRE_C="1")
    assert result.returncode != 0
    assert "MINILLM_OPENMP=1, but no OpenMP probe compiled and linked" in result.stdout


@pytest.mark.skipif(not shutil.which("clang"), reason="no clang")
def test_clang_builds(tree):
    assert_builds(build(tree, CC=compiler(tree, "clang")), tree)
    assert info(tree)["compiler"].startswith("clang")
    assert_works(tree)


def test_without_a_compiler_everything_runs_on_numpy_and_info_says_why(tree):
    result = build(tree, CC="/nonexistent/cc")
    assert result.returncode == 0, result.stdout
    found = info(tree)
    assert not found["compiled"]
    assert "_kernels" in found["why"]
    assert "install a C compiler" in found["remedy"]
    assert set(found["kernels"].values()) == {"numpy"}
    assert_works(tree)
    doctor = python(tree, "-m", "minillm", "doctor").stdout
    assert "install a C compiler" in doctor


def test_without_a_compiler_require_c_is_an_error(tree):
    result = build(tree, CC="/nonexistent/cc", MINILLM_REQUIRE_C="1")
    assert result.returncode != 0
    assert not list((tree / "minillm").glob("_kernels*"))


MSVC = """
import runpy, setuptools
found = {}
setuptools.setup = lambda **keywords: found.update(keywords)
runpy.run_path("setup.py")
command = found["cmdclass"]["build_ext"](setuptools.Distribution())
command.extensions = [setuptools.Extension("minillm._kernels", ["x.c"])]
command.compiler = type("Compiler", (), {"compiler_type": "msvc"})()
command.build_extensions()
"""


def test_msvc_is_refused_plainly(tree):
    """It has no vector extensions; unless C is required, the install goes on without kernels."""
    result = python(tree, "-c", MSVC)
    assert result.returncode == 0, result.stdout
    assert "MSVC has no GNU vector extensions" in result.stdout
    result = python(tree, "-c", MSVC, MINILLM_REQUIRE_C="1")
    assert result.returncode != 0
    assert "MSVC has no GNU vector extensions" in result.stdout
