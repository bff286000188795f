"""The command and its server: what it says, what it refuses, and that nothing is left when it ends."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from flowgraph_webapp.app import create_app
from flowgraph_webapp.recipe import Recipe
from flowgraph_webapp.server.errors import Closed
from flowgraph_webapp.server.model import ModelQuestion
from flowgraph_webapp.server.service import Service
from flowgraph_webapp.server.serving import LocalHosts, is_loopback, serve
from flowgraph_webapp.session import write_session

from flowgraph.cli import main
from flowgraph.errors import ArgumentError
from tests.app.conftest import TEXT, alive, until

pytestmark = pytest.mark.slow


@pytest.fixture
def started():
    """``started(*arguments)`` → the command in a process of its own, and the address it says."""
    processes = []

    def start(*arguments: str) -> tuple[subprocess.Popen, str, str]:
        command = [sys.executable, "-m", "flowgraph.cli", "app", "--no-browser", "--port", "0", *arguments]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        processes.append(process)
        said = ""
        for line in process.stdout:
            said += line
            found = re.search(r"http://\S+", line)
            if found:
                return process, found[0], said
        raise AssertionError(f"the server ended: {said}")

    yield start
    for process in processes:
        process.kill()
        process.wait()
        process.stdout.close()


def fetched(address: str, **headers: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def children(pid: int) -> list[int]:
    """Processes that any thread of a process has started."""
    listed = (thread / "children" for thread in Path(f"/proc/{pid}/task").iterdir())
    return [int(child) for file in listed for child in file.read_text().split()]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_server_answers_and_leaves_nothing_behind(started, folder, number):
    process, address, said = started("--model", folder)
    assert "warning" not in said
    status, page = fetched(address)
    assert status == 200
    assert "flowgraph" in page
    # By its other name too, and by none that leads elsewhere.
    status, text = fetched(address, Host="evil.example:80")
    assert status == 421
    assert "localhost and 127.0.0.1 only" in text
    assert fetched(address, Host="localhost")[0] == 200
    workers = until(lambda: children(process.pid), "the worker to start")
    process.send_signal(number)
    process.wait(60)
    assert process.returncode in (0, 130)
    assert "Traceback" not in process.stdout.read()
    until(lambda: not any(alive(pid) for pid in workers), "the worker to end")


def test_a_file_is_opened(started, folder, tmp_path):
    path = tmp_path / "study.flowgraph"
    path.write_bytes(write_session(Recipe(model=folder, text=TEXT), {}))
    _, address, _ = started("--model", folder, str(path))
    assert "session=" in address
    assert fetched(address)[0] == 200


def test_a_host_that_others_can_reach_is_warned_of(started, folder):
    _, _, said = started("--model", folder, "--host", "0.0.0.0")
    assert "warning: anyone who can reach this machine over the network can use this page" in said


def test_a_port_in_use_is_said(folder, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        service, begun = Service([folder], examples=False), []
        with pytest.raises(ArgumentError, match=f"port={port} is in use on 127.0.0.1, .* choose another with --port"):
            serve(
                service,
                lambda: create_app(service).server,
                port=port,
                open_browser=False,
                begin=lambda: begun.append(service.warm()),
            )
        assert service.worker_pid is None
        with pytest.raises(Closed):
            service.ask(ModelQuestion(folder))
        assert main(["app", "--no-browser", "--port", str(port), "--model", folder]) == 2
    said = capsys.readouterr().err
    assert f"port={port} is in use" in said
    assert "could not be loaded" not in said
    assert begun == []


@pytest.mark.parametrize("host", ["no.such.host.invalid", "256.1.1.1"])
def test_a_host_that_is_none_is_said(folder, host):
    service = Service([folder], examples=False)
    with pytest.raises(ArgumentError, match="choose another --host or --port"):
        serve(service, lambda: create_app(service).server, host=host, port=0, open_browser=False)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--port", "x"], "is not a port"),
        (["--port", "70000"], "is not a port"),
        (["--port", "-1"], "port"),
        (["nothing.flowgraph"], "is not there; name a file"),
        (["."], "is a folder; name a file"),
        (["--model", ""], "model=''"),
    ],
)
def test_arguments_that_cannot_be_used(arguments, reason, capsys):
    assert main(["app", "--no-browser", *arguments]) == 2
    assert reason in capsys.readouterr().err


def test_a_damaged_file_is_said(tmp_path, capsys):
    for name, data in (("a.flowgraph", b"PK\x03\x04junk"), ("b.json", b"{}"), ("c.flowgraph", b"junk")):
        (tmp_path / name).write_bytes(data)
        assert main(["app", "--no-browser", str(tmp_path / name)]) in (1, 2)
        message = capsys.readouterr().err
        assert "error: " in message
        assert "Traceback" not in message


@pytest.mark.parametrize("missing", ["dash", "waitress", "flowgraph_webapp"])
def test_without_the_extra_it_says_what_to_install(missing):
    code = f"""
import sys
sys.modules[{missing!r}] = None
from flowgraph.cli import main
sys.exit(main(["app", "--no-browser", "--port", "0"]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert "pip install 'transformer-flowgraph[app]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_which_addresses_are_of_this_machine_only():
    assert all(is_loopback(host) for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost"))
    assert not any(is_loopback(host) for host in ("0.0.0.0", "::", "192.168.0.1", "example.org", ""))


@pytest.mark.parametrize(
    ("host", "passes"),
    [("127.0.0.1:8050", True), ("localhost", True), ("[::1]:8050", True), ("", False), ("localhost.evil.example", False),
     ("evil.example", False), ("127.0.0.1.nip.io:80", False), ("a@localhost", False), ("[", False),
     ("127.0.0.1:8050.evil.example", False), ("127.0.0.1:8050, evil.example", False), ("localhost:", False)],
)  # fmt: skip
def test_requests_name_this_machine(host, passes):
    statuses = []
    guarded = LocalHosts(lambda _environ, start: (start("200 OK", []), [b"page"])[1])
    answer = guarded({"HTTP_HOST": host}, lambda status, _headers: statuses.append(status))
    assert (statuses[0] == "200 OK", answer == [b"page"]) == (passes, passes)
