"""`hero train --evaluator web`, `hero label` and `hero resume` as real processes, labelled over HTTP."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from desks import Run
from hero.cli.options import listening_lines
from hero.config import Config, load_toml, validate
from hero.errors import ConfigError, RunError
from hero.tuner import Tuner
from hero.types import Feedback
from hero.web.listening import Listening
from hero.web.process import page_served

PATIENCE = 900.0
GOOD, BEST = (0, 2), 2
"""Which images of a round are good, and which is the best."""

START = (
    "import signal\n"
    "import sys\n"
    "from hero.cli import main\n"
    "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell may have ignored it, for the background
)
WITHOUT_TORCH = (
    f"{START}"
    "try:\n"
    "    main()\n"
    "finally:\n"
    "    print('torch loaded' if 'torch' in sys.modules else 'no torch', flush=True)\n"
)


class Page:
    """A page's front end without a browser."""

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        self.origin = f"{parts.scheme}://{parts.netloc}"
        self.token = parse_qs(parts.query)["token"][0]

    def call(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps({"evaluator": "ada", **body}).encode()
        request = urllib.request.Request(self.origin + path, data, headers)
        with urllib.request.urlopen(request, timeout=60) as reply:
            answer: dict[str, Any] = json.load(reply)
        return answer

    def state(self) -> dict[str, Any]:
        return self.call("/api/state?evaluator=ada")

    def wait_for(self, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The state as soon as `condition` holds."""
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            state = self.state()
            if condition(state):
                return state
            time.sleep(0.2)
        raise AssertionError(f"waited in vain; {state['phase']}")

    def mark(self, round_: int, images: Sequence[str]) -> None:
        best = f"r{round_:04d}-i{BEST:04d}"
        marks = [{"image_id": i, "kind": "verdict", "value": "good"} for i in images]
        if best in images:
            marks.append({"image_id": best, "kind": "best", "value": "yes"})
        self.call(f"/api/rounds/{round_}/marks", {"marks": marks})

    def submit(self, round_: int) -> None:
        self.call(f"/api/rounds/{round_}/submit", {"seconds": 3.0, "seen_none_good": False})

    def command(self, kind: str) -> None:
        self.call("/api/commands", {"kind": kind, "body": {}})


def good(round_: int) -> list[str]:
    return [f"r{round_:04d}-i{k:04d}" for k in GOOD]


def drawn(round_: int) -> Callable[[dict[str, Any]], bool]:
    def holds(state: dict[str, Any]) -> bool:
        shown = state["round"]
        return shown is not None and shown["round"] == round_ and shown["drawn"] == shown["total"]

    return holds


@contextmanager
def hero(*arguments: str | Path, code: str = f"{START}main()\n") -> Iterator[subprocess.Popen[str]]:
    """A `hero` process; killed at the end if it is still there."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def page_of(process: subprocess.Popen[str]) -> Page:
    """The page that the process prints the address of."""
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        if line.startswith("label at "):
            return Page(line.removeprefix("label at ").strip())
    raise AssertionError("".join(said))


def lora(run: Path) -> bytes:
    return (run / "lora" / "pytorch_lora_weights.safetensors").read_bytes()


def lora_by_hand(config: Config, run: Path) -> bytes:
    """What the same labels teach from Python."""
    with Tuner(config, run) as tuner:
        while not tuner.done:
            batch = tuner.ask()
            tuner.tell(Feedback.from_good(batch, [batch.ids[k] for k in GOOD], batch.ids[BEST]))
    return lora(run)


@pytest.fixture(scope="module")
def config(tiny_config: Callable[..., Config]) -> Config:
    return tiny_config(
        rounds=2,
        sampling={"num_steps": 3, "images_per_round": 4, "micro_batch": 2},
        lora={"layers": ("attention",)},
        update={"micro_batch": 4},
        evaluator={"name": "web", "linger": 600, "previews": 1, "undo_seconds": 0},
        evaluation={"images": 2},
    )


@pytest.mark.learns
def test_a_run_is_labelled_killed_labelled_meanwhile_and_resumed(config: Config, tmp_path: Path) -> None:
    run, settings = tmp_path / "run", tmp_path / "settings.toml"
    settings.write_text(config.to_toml())
    options = ["--no-browser", "--port", "0"]

    with hero("train", "--config", settings, "--out", run, *options) as training:
        page = page_of(training)
        page.wait_for(drawn(1))
        page.mark(1, good(1))
        page.submit(1)
        page.wait_for(drawn(2))
        page.mark(2, good(2)[:1])
        training.kill()
        training.wait()
    until = time.monotonic() + 30
    while time.monotonic() < until:  # a page does not outlive a killed run
        try:
            page.state()
        except urllib.error.URLError:
            break
        time.sleep(0.1)
    else:
        pytest.fail("the page is still served")

    with hero("label", run, *options, code=WITHOUT_TORCH) as labelling:
        again = page_of(labelling)
        assert again.token == page.token  # an old link still opens it
        assert list(again.state()["mine"]["marks"]) == good(2)[:1]
        again.mark(2, good(2)[1:])
        again.submit(2)
        labelling.send_signal(signal.SIGINT)
        said = labelling.communicate(timeout=PATIENCE)[0]
        assert labelling.returncode == 0, said
    assert "every label is stored" in said
    assert said.splitlines()[-1] == "no torch"

    with hero("resume", run, *options) as training:
        page = page_of(training)
        state = page.wait_for(lambda state: state["phase"]["phase"] == "finished")
        assert [answer["good"] for answer in state["answers"]] == [2, 2]
        assert state["run"]["lora"] == str((run / "lora" / "pytorch_lora_weights.safetensors").resolve())
        page.call("/api/commands", {"kind": "finish", "body": {"stay": True}})
        state = page.wait_for(lambda state: state["phase"]["phase"] == "stopped")  # and the page is still there
        assert state["phase"]["step"] == "complete"
        assert (state["result"]["images"], state["result"]["report"]) == (2, True)
        assert set(state["result"]["success"]) == {"base", "tuned_fresh", "tuned_refined"}
        page.command("finish")
        said = training.communicate(timeout=PATIENCE)[0]
        assert training.returncode == 0, said
    assert (
        "all rounds are done; waiting 10 min for more from the page; Finish there, or Ctrl-C here, ends the run" in said
    )
    assert said.index("report   ") < said.index("the page shows the result; Close there")
    assert (run / "report.html").is_file()
    assert os.stat(run / ".web-token").st_mode & 0o077 == 0

    assert lora(run) == lora_by_hand(config, tmp_path / "twin")


@pytest.mark.slow
def test_people_teach_a_run_of_two_processes_what_they_teach_one(config: Config, tmp_path: Path) -> None:
    run, settings = tmp_path / "run", tmp_path / "settings.toml"
    settings.write_text(config.to_toml())
    options = ["--processes", "2", "--no-evaluate", "--no-browser", "--port", "0"]
    with hero("train", "--config", settings, "--out", run, *options) as training:
        page = page_of(training)
        for round_ in (1, 2):
            page.wait_for(drawn(round_))
            page.mark(round_, good(round_))
            page.submit(round_)
        page.wait_for(lambda state: state["phase"]["phase"] == "finished")
        page.command("finish")
        said = training.communicate(timeout=PATIENCE)[0]
        assert training.returncode == 0, said
    assert lora(run) == lora_by_hand(config, tmp_path / "twin")


@pytest.mark.learns
def test_a_run_that_is_stopped_from_the_page_ends_well_and_its_prompt_needs_no_evaluator(
    config: Config, random_pipeline: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    options: list[str | Path] = ["--no-browser", "--port", "0", "--model", random_pipeline, "--preset", "tinyworld"]
    options += ["--rounds", "2"]
    options += ["--images-per-round", "4", "--set", "sampling.num_steps=8", "--set", "evaluator.previews=0"]
    with hero("train", "--prompt", "a red cup", "--out", run, *options) as training:
        page = page_of(training)
        state = page.wait_for(drawn(1))
        assert (state["run"]["prompts"], state["run"]["evaluators"]) == (["a red cup"], 1)
        page.command("stop")
        said = training.communicate(timeout=PATIENCE)[0]
        assert training.returncode == 0, said
    assert f"`hero resume {run}` continues the run" in said
    assert (run / "lora" / "pytorch_lora_weights.safetensors").is_file()
    assert validate(load_toml(run / "config.toml")).evaluator.name == "web"


def test_a_page_that_cannot_be_served_says_so(tmp_path: Path) -> None:
    with (
        pytest.raises(RunError, match="could not be started"),
        page_served(tmp_path / "nowhere", None, Listening(browser=False)),
    ):
        pass


def test_a_port_that_is_taken_is_said_at_once_and_leaves_nothing_behind(tmp_path: Path) -> None:
    """Before the model is loaded, without a dump of threads, and the corrected command finds the folder free."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        options = ["--evaluator", "web", "--no-browser", "--port", port, "--out", tmp_path / "run"]
        with hero("train", "--task", "hand", *options, code=WITHOUT_TORCH) as training:
            said = training.communicate(timeout=PATIENCE)[0]
    assert training.returncode == 2
    assert f"cannot listen on 127.0.0.1:{port}" in said
    assert "no torch" in said
    assert "Fatal Python error" not in said
    assert not (tmp_path / "run").exists()


def test_a_desk_keeps_its_port_where_it_can(tmp_path: Path) -> None:
    """An open page goes on when the run does, even if another program had the usual port meanwhile."""
    Run(tmp_path / "desk").close()
    with page_served(tmp_path / "desk", None, Listening(port=0, browser=False)) as page:
        port = urlsplit(page.address).port
    assert port is not None
    with page_served(tmp_path / "desk", None, Listening(browser=False)) as page:
        assert urlsplit(page.address).port == port
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", port))
        other.listen()
        with page_served(tmp_path / "desk", None, Listening(browser=False)) as page:
            assert urlsplit(page.address).port != port


def test_other_names_and_a_prefix_reach_the_server(tmp_path: Path) -> None:
    Run(tmp_path / "desk").close()
    behind = Listening(port=0, browser=False, names=("hub.example",), prefix="/hero")
    with page_served(tmp_path / "desk", None, behind) as page:
        parts = urlsplit(page.address)
        assert parts.path == "/hero/"
        asked = urllib.request.Request(page.address.replace("/?", "/api/health?"), headers={"Host": "hub.example"})
        token = parse_qs(parts.query)["token"][0]
        asked.add_header("Authorization", f"Bearer {token}")
        with urllib.request.urlopen(asked, timeout=60) as reply:
            assert json.load(reply)["ok"]


def test_a_page_that_others_can_reach_is_warned_of() -> None:
    assert listening_lines(Listening()) == []
    (first, *_) = listening_lines(Listening(host="0.0.0.0"))
    assert first.startswith("warning: the page listens on 0.0.0.0.")


def test_label_needs_a_run_of_people(config: Config, tmp_path: Path) -> None:
    from hero.cli.resume import label

    with pytest.raises(RunError, match="there is no run in"):
        label(tmp_path)
    oracle = config.model_copy(update={"evaluator": config.evaluator.model_copy(update={"name": "oracle"})})
    (tmp_path / "config.toml").write_text(oracle.to_toml())
    with pytest.raises(ConfigError, match="is not labelled by people: its evaluator is 'oracle'"):
        label(tmp_path)
