"""`minillm profile` from its flags to its files: table, JSON, trace and page."""

import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser

import pytest

from minillm import kernels
from minillm.cli import main
from minillm.observe import report, roofs

TINY = ["--n-layer=1", "--n-head=2", "--n-embd=8", "--block-size=8", "--batch-size=2", "--steps=2"]
SUBJECT = {
    "steps", "seconds", "attributed", "phases", "operations", "kernels", "parts", "flop", "bytes",
    "kernel_flop", "model_flop", "tokens", "mfu", "held",
}  # fmt: skip
CHROMIUM = next(filter(shutil.which, ("chromium", "chromium-browser", "google-chrome")), None)


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """The files that one run writes."""
    folder = tmp_path_factory.mktemp("profile")
    files = {name: folder / f"profile.{name}" for name in ("json", "trace", "html")}
    flags = [f"--{name}={path}" for name, path in files.items()]
    with pytest.MonkeyPatch.context() as patch:
        by_hand = roofs.Roofs(
            "by hand", 1, {1: 100.0}, *({1: {"L1": 100.0, "DRAM": 10.0}},) * 2,
            {"L1": 16_000, "DRAM": 10**9}, "2025-01-31T12:00:00", True,
        )  # fmt: skip
        patch.setattr(roofs, "load", lambda *how: by_hand)
        assert main(["profile", *TINY, "--generate=3", *flags]) == 0
    return files


@pytest.fixture(scope="module")
def result(outputs):
    return json.loads(outputs["json"].read_text(encoding="utf-8"))


def test_json_is_as_documented(result):
    assert result.keys() == {
        "schema", "date", "model", "machine", "versions", "code", "threads", "roofs", "train",
        "prefill", "decode",
    }  # fmt: skip
    assert result["schema"] == 1
    train = result["train"]
    assert train.keys() == SUBJECT | {"computed_flop", "plain_seconds", "overhead", "ledger"}
    assert result["prefill"].keys() == result["decode"].keys() == SUBJECT
    assert train["ledger"].keys() == {"rows", "activations", "timeline", "peak"}
    assert train["steps"] == 2
    for name, columns in report.TABLES.items():
        for row in train[name]:
            assert all(column.key in row for column in columns)


def test_mfu_is_the_count_by_hand_over_time_and_peak(result):
    for name in ("train", "prefill", "decode"):
        subject = result[name]
        peak = 1e9 * result["roofs"]["peak_gflops"]
        mfu = subject["model_flop"] / subject["seconds"]["mean"] / peak
        assert subject["mfu"] == pytest.approx(mfu)


def test_prefill_takes_the_prompt_and_decode_a_token(result):
    assert (result["prefill"]["tokens"], result["decode"]["tokens"]) == (5, 1)
    assert any("5×8 " in row["shapes"] for row in result["prefill"]["kernels"])
    assert not any("5×8 " in row["shapes"] for row in result["decode"]["kernels"])


def test_text_names_the_bottleneck_and_bounds(measured, capsys):
    assert main(["profile", *TINY]) == 0
    text = capsys.readouterr().out
    assert "The bottleneck is " in text
    assert "Amdahl" in text
    assert re.search(
        r"^layer_norm +3 ", text, re.MULTILINE
    )  # two of a block, one before the logits
    assert re.search(r"^peak .* MB .* MB +\d\.\d{3}$", text, re.MULTILINE)


def test_kernel_choice_and_threads_are_those_of_the_flags(measured, tmp_path):
    path = tmp_path / "x.json"
    flags = ["--kernels=matmul=numpy", "--threads=1", f"--json={path}"]
    assert main(["profile", *TINY, *flags]) == 0
    rows = json.loads(path.read_text(encoding="utf-8"))["train"]["kernels"]
    used = {row["implementation"] for row in rows if row["kernel"] == "matmul"}
    assert used == {"numpy"}
    assert kernels.get_num_threads() == 1


def test_trace_is_in_chromes_format(outputs):
    trace = json.loads(outputs["trace"].read_text(encoding="utf-8"))
    assert trace.keys() == {"traceEvents", "displayTimeUnit"}
    events = trace["traceEvents"]
    assert Counter(e["ph"] for e in events).keys() == {"M", "X"}
    names = {(e["pid"], e["tid"]) for e in events if e["name"] == "thread_name"}
    for event in events:
        assert event.keys() >= {"name", "ph", "pid", "tid"}
        if event["ph"] == "X":
            assert event["ts"] >= 0
            assert event["dur"] >= 0
            assert (event["pid"], event["tid"]) in names
    steps = [e for e in events if e["ph"] == "X" and e["tid"] == 0 and e["pid"] == 1]
    inside = [e for e in events if e["ph"] == "X" and e["tid"] == 3 and e["pid"] == 1]
    assert len(steps) == 2
    assert all(
        any(s["ts"] <= e["ts"] + 5 and e["ts"] + e["dur"] <= s["ts"] + s["dur"] + 5 for s in steps)
        for e in inside
    )


class Links(HTMLParser):
    """Everything in a page that could fetch something."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attributes):
        named = dict(attributes)
        self.found += [named[key] for key in ("src", "href", "srcset", "data") if key in named]


def test_page_is_self_contained(outputs):
    page = outputs["html"].read_text(encoding="utf-8")
    links = Links()
    links.feed(page)
    assert links.found == ["data:,"]  # no icon
    assert "url(" not in page
    assert "@import" not in page
    for heading in ("Operations", "Kernel calls", "Roofline", "Memory", "One step in time"):
        assert f">{heading}</h" in page


def browse(page, folder):
    """(the page after its scripts, what the console said, addresses asked for)."""
    log = folder / "net.json"
    run = subprocess.run(
        [
            CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
            f"--user-data-dir={folder / 'browser'}", f"--log-net-log={log}", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            "--dump-dom", page.as_uri(),
        ],
        capture_output=True, text=True, encoding="utf-8", timeout=120,
    )  # fmt: skip
    console = [line for line in run.stderr.splitlines() if ":CONSOLE" in line]
    starts = [e.get("params", {}) for e in json.loads(log.read_text(encoding="utf-8"))["events"]]
    own = "not an origin"  # the browser's own business
    asked = {p["url"] for p in starts if p.get("initiator", own) != own}
    return run.stdout, console, {url for url in asked if not url.startswith(("file:", "data:"))}


CLICKS = """<script>
const table = document.querySelector("table.sorts");
const button = table.querySelectorAll("th button")[5];
const order = () => [...table.tBodies[0].rows].map(row => +row.cells[5].dataset.value);
button.click();
const down = order();
button.click();
document.title = JSON.stringify([down, order()]);
</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_page_works_in_a_browser_without_network(outputs, tmp_path):
    page = tmp_path / "page.html"
    text = outputs["html"].read_text(encoding="utf-8")
    page.write_text(text.replace("</body>", f"{CLICKS}</body>"), encoding="utf-8")
    dom, console, asked = browse(page, tmp_path)
    assert (console, asked) == ([], set())
    down, up = json.loads(re.search("<title>(.*)</title>", dom).group(1))
    assert down == sorted(up, reverse=True)
    assert up == sorted(up)
    assert len(set(up)) > 3


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_browser_would_tell_of_errors_and_requests(tmp_path):
    page = tmp_path / "bad.html"
    bad = "<img src='http://127.0.0.1:9/x.png'><script>nothing.there()</script>"
    page.write_text(bad, encoding="utf-8")
    _, console, asked = browse(page, tmp_path)
    assert any("nothing is not defined" in line for line in console)
    assert asked == {"http://127.0.0.1:9/x.png"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps=0"], "--steps must be at least 1"),
        (["--generate=8"], "--generate must be 2 … 7"),
        (["--preset=char-huge"], "does not exist"),
        (["--kernels=matmul=fast"], "no implementation 'fast'"),
        (["--html=no/such/place.html"], "there is no such directory"),
        (["--n-head=3"], "cannot be divided"),
    ],
)
def test_mistake_is_one_line(measured, arguments, message, capsys):
    assert main(["profile", *TINY, *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_missing_matplotlib_still_gives_the_tables(measured, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main(["profile", *TINY, f"--plot={tmp_path / 'x.png'}"]) == 2
    printed = capsys.readouterr()
    assert "The bottleneck is " in printed.out
    assert 'pip install "minillm[plot]"' in printed.err
