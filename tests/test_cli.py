"""The command line as a user meets it: output, exit codes, and one line for every mistake."""

import json
import os
import re
import signal
import subprocess
import sys
import threading

import pytest

import minillm
from minillm import checkpoint
from minillm.cli import main

TEXT = "the quick brown fox jumps over the lazy dog\n" * 60
SETTINGS = {
    "n-layer": 1,
    "n-head": 2,
    "n-embd": 16,
    "block-size": 16,
    "batch-size": 4,
    "max-iters": 6,
    "eval-interval": 3,
    "eval-iters": 1,
    "warmup-iters": 2,
    "seed": 5,
}
TINY = [f"--{name}={value}" for name, value in SETTINGS.items()]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "my text.txt"
    path.write_text(TEXT)
    return str(path)


@pytest.fixture(scope="module")
def run(corpus, tmp_path_factory):
    """A run directory that the command line made."""
    directory = tmp_path_factory.mktemp("cli") / "run"
    assert main(["train", corpus, "--out", str(directory), *TINY]) == 0
    return str(directory)


BUFFERED = {name: os.environ[name] for name in os.environ if name != "PYTHONUNBUFFERED"}


def minillm_process(*arguments):
    """`python -m minillm …` as a process, with Ctrl-C as a terminal would give it."""

    def reset_ctrl_c():
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    return subprocess.Popen(
        [sys.executable, "-m", "minillm", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=BUFFERED,
        preexec_fn=None if sys.platform == "win32" else reset_ctrl_c,
    )


def mistake(arguments, capsys):
    """The one line on stderr of a command that exits with 2, without its `minillm: error: `."""
    try:
        code = main(arguments)
    except SystemExit as exit:  # argparse's way
        code = exit.code
    captured = capsys.readouterr()
    assert code == 2
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("minillm: error: ")
    return captured.err.removeprefix("minillm: error: ")


def test_train_says_what_it_trains_on_and_where(corpus, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", corpus, *TINY]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith(f"corpus: {corpus}, {len(TEXT):,} characters")
    assert "run: runs" in captured.out
    assert re.search(r"loss \d\.\d+, \d+\.\d ms, [\d,]+ tokens/s", captured.err)
    assert re.search(r"iteration 6: train loss \d\.\d+, val loss \d\.\d+", captured.out)
    for name in ("config.toml", "tokenizer.json", "log.jsonl", checkpoint.MODEL, checkpoint.STATE):
        assert (tmp_path / "runs" / "my-text-char-small" / name).exists()
    assert main(["train", corpus, *TINY]) == 0
    assert (tmp_path / "runs" / "my-text-char-small-2").exists()


def test_train_draws_the_loss_where_matplotlib_is_installed(run):
    pytest.importorskip("matplotlib")
    with open(f"{run}/loss.png", "rb") as file:
        assert file.read(8) == b"\x89PNG\r\n\x1a\n"


def test_train_runs_from_a_settings_file(corpus, tmp_path, capsys):
    first, second = tmp_path / "first", tmp_path / "second"
    main(["train", corpus, "--out", str(first), *TINY])
    assert main(["train", "--config", str(first / "config.toml"), "--out", str(second)]) == 0
    for name in ("config.toml", "model.safetensors"):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_resumed_run_can_be_somewhere_else(corpus, tmp_path, monkeypatch):
    monkeypatch.chdir(os.path.dirname(corpus))
    out = tmp_path / "run"
    assert main(["train", os.path.basename(corpus), "--out", str(out), *TINY]) == 0
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--resume", "run", "--max-iters", "8"]) == 0
    assert checkpoint.load(out).iteration == 8


@pytest.mark.parametrize("kernels", ["numpy", "auto"])
def test_train_with_chosen_kernels_and_threads(corpus, tmp_path, kernels):
    flags = ["--out", str(tmp_path / "run"), "--kernels", kernels, "--threads", "1", *TINY]
    done = subprocess.run([sys.executable, "-m", "minillm", "train", corpus, *flags])
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "no/such/file.txt"], "'no/such/file.txt' is neither a file"),
        (["train", "--preset", "gpt5"], "--preset 'gpt5' does not exist; there are char-small"),
        (["train", "--config", "none.toml"], "none.toml: cannot read the settings"),
        (["train", "--n-layer", "two"], "argument --n-layer: invalid int value: 'two'"),
        (["train", "--n-layer", "0"], "--n-layer must be at least 1, got 0"),
        (["train", "--dropout", "1"], "--dropout must be below 1"),
        (["train", "--n-embd", "30"], "--n-embd 30 cannot be divided among --n-head 4"),
        (["train", "--layers", "3"], "unrecognized arguments: --layers"),
        (["train", "--threads", "0"], "--threads must be at least 1, got 0"),
        (["train", "--kernels", "matmul=fast"], "matmul"),
        (["train", "--resume", "nowhere"], "nowhere: not a run directory"),
        (["train", "--resume", "nowhere", "--out", "x"], "--out does not go with --resume"),
        (["sample", "nowhere"], "nowhere: not a run directory"),
        (["sample"], "the following arguments are required: RUN"),
        (["eval", "nowhere"], "nowhere: not a run directory"),
        (["fly"], "invalid choice: 'fly'"),
        (["sample", "no\nwhere"], "no where: not a run directory"),
        (["train", "--a\nb"], "unrecognized arguments: --a b"),
    ],
)
def test_mistake_is_one_line(arguments, message, capsys):
    assert message in mistake(arguments, capsys)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "is empty"), (b"caf\xe9" * 999, "is not UTF-8"), (b"short text", "too short")],
)
def test_text_that_cannot_be_trained_on_is_one_line(content, message, tmp_path, capsys):
    path = tmp_path / "corpus.txt"
    path.write_bytes(content)
    assert message in mistake(["train", str(path), "--out", str(tmp_path / "run")], capsys)
    assert not (tmp_path / "run").exists()


def test_out_that_holds_a_run_is_refused(run, corpus, capsys):
    message = mistake(["train", corpus, "--out", run, *TINY], capsys)
    assert f"{run} already holds a run: continue it with --resume" in message


def test_out_that_is_a_file_is_one_line(corpus, capsys):
    assert corpus in mistake(["train", corpus, "--out", corpus, *TINY], capsys)


def test_unwritable_directory_is_one_line(corpus, tmp_path, monkeypatch, capsys):
    def full(*arguments):
        raise OSError(28, "No space left on device", "run")

    monkeypatch.setattr(checkpoint, "write", full)
    arguments = ["train", corpus, "--out", str(tmp_path / "run"), *TINY]
    assert "No space left on device" in mistake(arguments, capsys)


def test_diverged_run_exits_with_1_and_one_line(corpus, tmp_path, capsys):
    flags = ["--out", str(tmp_path / "run"), *TINY, "--learning-rate", "1e30"]
    assert main(["train", corpus, *flags]) == 1
    assert "minillm: error: " in capsys.readouterr().err.splitlines()[-1]


def test_sample_continues_the_prompt_the_same_for_the_same_seed(run, capsys):
    texts = []
    for seed in ("1", "1", "2"):
        arguments = ["--prompt", "the ", "--tokens", "40", "--seed", seed]
        assert main(["sample", run, *arguments]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] != texts[2]
    assert texts[0].startswith("the ")
    assert len(texts[0]) == len("the ") + 40 + len("\n")


def test_sample_without_a_prompt(run, capsys):
    assert main(["sample", run, "--tokens", "5", "--temperature", "0"]) == 0
    assert len(capsys.readouterr().out) == 6


def test_sample_of_an_unknown_character_is_one_line_or_replaced(run, capsys):
    message = mistake(["sample", run, "--prompt", "Ωmega"], capsys)
    assert "'Ω'" in message
    assert "--unknown replace" in message
    assert main(["sample", run, "--prompt", "Ω", "--unknown", "replace", "--tokens", "1"]) == 0


def test_sample_of_a_damaged_run_is_one_line(run, tmp_path, capsys):
    import shutil

    copy = shutil.copytree(run, tmp_path / "copy")
    (copy / "model.safetensors").write_bytes(b"x")
    assert "is damaged" in mistake(["sample", str(copy)], capsys)
    (copy / "tokenizer.json").write_text("{")
    assert "tokenizer" in mistake(["sample", str(copy)], capsys)
    (copy / "config.toml").write_text("n_layer = [")
    assert "not a TOML file" in mistake(["sample", str(copy)], capsys)


def test_eval_compares_with_bigram_and_uniform(run, corpus, capsys):
    assert main(["eval", run]) == 0
    lines = capsys.readouterr().out.splitlines()
    n_val = len(TEXT) - int(0.9 * len(TEXT))
    assert lines[0] == f"{run} on the validation split of {corpus}: {n_val - 1:,} tokens"
    assert [line[:10].strip() for line in lines[2:]] == ["this model", "bigram", "uniform"]


def test_eval_on_another_text_counts_every_token(run, tmp_path, capsys):
    other = tmp_path / "other.txt"
    other.write_text("the lazy fox\n" * 9)
    assert main(["eval", run, str(other)]) == 0
    assert f"on {other}: {13 * 9 - 1} tokens" in capsys.readouterr().out
    other.write_text("THE")
    assert "unknown character 'T'" in mistake(["eval", run, str(other)], capsys)
    assert main(["eval", run, str(other), "--unknown", "replace"]) == 0


def test_corpora_lists_the_names(capsys):
    assert main(["corpora"]) == 0
    out = capsys.readouterr().out
    for name in ("shakespeare", "pydocs", "tinyshakespeare"):
        assert name in out


def test_version_and_help(capsys):
    for flag, text in (("--version", f"minillm {minillm.__version__}\n"), ("--help", "usage: ")):
        with pytest.raises(SystemExit) as exit:
            main([flag])
        assert exit.value.code == 0
        assert capsys.readouterr().out.startswith(text)
    assert main([]) == 0
    assert "doctor" in capsys.readouterr().out


def test_module_runs_as_a_program():
    process = minillm_process("doctor", "--json")
    out, err = process.communicate()
    assert err == ""
    assert json.loads(out)["facts"]["minillm"] == minillm.__version__


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C cannot be sent to one process")
def test_ctrl_c_saves_and_exits_with_130(corpus, tmp_path):
    out = tmp_path / "run"
    process = minillm_process(
        "train",
        corpus,
        "--out",
        str(out),
        *TINY,
        "--max-iters",
        "1000000",
        "--eval-interval",
        "999",
    )
    for line in process.stdout:
        if line.startswith("iteration 0"):
            break
    process.send_signal(signal.SIGINT)
    rest, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"minillm train --resume {out}" in rest
    assert "Traceback" not in err
    iteration = checkpoint.load(out).iteration
    assert main(["train", "--resume", str(out), "--max-iters", str(iteration + 1)]) == 0


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C cannot be sent to one process")
def test_ctrl_c_ends_a_sample_quietly(run):
    process = minillm_process("sample", run, "--tokens", "1000000000")
    assert process.stdout.read(10)  # it streams
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "")


# A sample that waits, after its first piece, until it is told to go on.
WAITING = """
import sys
from minillm import cli, generate

def pieces(*arguments):
    yield "first"
    sys.stdin.read()

generate.stream = pieces
sys.exit(cli.main(sys.argv[1:]))
"""


def test_sample_shows_each_piece_at_once(run):
    process = subprocess.Popen(
        [sys.executable, "-c", WAITING, "sample", run],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=BUFFERED,
    )
    rescue = threading.Timer(30, process.kill)  # else a piece that is held back hangs the test
    rescue.start()
    assert process.stdout.read(5) == b"first"
    rescue.cancel()
    assert process.communicate()[0].strip() == b""


@pytest.mark.skipif(sys.platform == "win32", reason="pipes close another way")
def test_closed_pipe_is_quiet(run):
    process = minillm_process("sample", run, "--tokens", "1000000000")
    process.stdout.read(10)
    process.stdout.close()
    process.stdout = None
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (141, "")


@pytest.mark.skipif(sys.platform == "win32", reason="pipes close another way")
def test_pipe_closed_before_a_short_output_is_quiet():
    process = minillm_process("corpora")
    process.stdout.close()
    process.stdout = None
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (141, "")
