"""The launchd plist: rendered as data, linted in layers, equal to the example in launchd/."""

from __future__ import annotations

import plistlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.launchd import LABEL, Job, agent_file, find_guarded_folder, job_dict, render
from daemon.plist_lint import lint

EXAMPLE = Path(__file__).resolve().parents[2] / "launchd" / f"{LABEL}.plist"
FILE_NAME = EXAMPLE.name
Change = Callable[[dict[str, Any]], object]


def job_of(user_home: Path, *, custom_home: bool = False) -> Job:
    return Job(
        interpreter=user_home / "Pushkin" / ".venv" / "bin" / "python",
        port=1799,
        home=user_home / "Library" / "Application Support" / "Pushkin",
        logs=user_home / "Library" / "Logs" / "Pushkin",
        custom_home=custom_home,
    )


JOB = job_of(Path("/Users/you"))


def test_the_example_is_what_we_render(golden: Callable[[Path, str], None]) -> None:
    golden(EXAMPLE, render(JOB).decode())


def test_the_rendered_plist_has_no_fault() -> None:
    assert lint(render(JOB), FILE_NAME) == []
    assert agent_file(Path("/Users/you")).name == FILE_NAME


_NAMES = st.text(
    st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="/\ufffe\uffff"),
    min_size=1,
    max_size=60,
)


@given(_NAMES.filter(lambda name: name not in (".", "..")))
def test_any_home_survives_the_round_trip(name: str) -> None:
    job = job_of(Path("/Users") / f"ann & bob <x> {name}", custom_home=True)
    content = render(job)

    assert plistlib.loads(content) == job_dict(job)
    assert lint(content, FILE_NAME) == []


FAULTS: dict[str, tuple[Change, str]] = {
    "unknown key": (lambda d: d.update(RunAtLaod=True), "RunAtLaod: not a key"),
    "key for daemons only": (lambda d: d.update(UserName="root"), "UserName: not a key"),
    "bool as a number": (lambda d: d.update(RunAtLoad=1), "RunAtLoad: expected bool, got int"),
    "number as bool": (lambda d: d.update(Umask=True), "Umask: expected int, got bool"),
    "number as text": (lambda d: d.update(ExitTimeOut="15"), "ExitTimeOut: expected int"),
    "environment number": (
        lambda d: d["EnvironmentVariables"].update(OMP_NUM_THREADS=1),
        "EnvironmentVariables.OMP_NUM_THREADS: expected a string",
    ),
    "nested unknown": (
        lambda d: d["KeepAlive"].update(SucessfulExit=False),
        "KeepAlive.SucessfulExit: not a key",
    ),
    "socket type": (
        lambda d: d["Sockets"]["http4"].update(SockServiceName=1799),
        "Sockets.http4.SockServiceName: expected str",
    ),
    "missing key": (lambda d: d.pop("ProcessType"), "ProcessType: missing"),
    "another label": (lambda d: d.update(Label="com.other"), "must be the file's name"),
    "relative program": (lambda d: d.update(ProgramArguments=["python"]), "absolute path"),
    "shell wrapper": (
        lambda d: d.update(ProgramArguments=["/bin/sh", "-c", "x"]),
        "the interpreter itself",
    ),
    "script": (
        lambda d: d.update(ProgramArguments=["/opt/venv/bin/pushkin", "serve"]),
        "the interpreter itself",
    ),
    "tilde": (lambda d: d.update(WorkingDirectory="~/Pushkin"), "expands neither ~"),
    "log in /tmp": (lambda d: d.update(StandardOutPath="/tmp/x.log"), "other users can read"),
    "secret": (
        lambda d: d["EnvironmentVariables"].update(PUSHKIN_TOKEN="x"),
        "PUSHKIN_TOKEN: every process of the user",
    ),
    "open to the network": (
        lambda d: d["Sockets"]["http4"].update(SockNodeName="0.0.0.0"),
        "not a literal loopback address",
    ),
    "localhost by name": (
        lambda d: d["Sockets"]["http4"].update(SockNodeName="localhost"),
        "not a literal loopback address",
    ),
    "no node": (
        lambda d: d["Sockets"]["http4"].pop("SockNodeName"),
        "not a literal loopback address",
    ),
    "service by name": (
        lambda d: d["Sockets"]["http6"].update(SockServiceName="http"),
        "not a port number",
    ),
    "throttled": (lambda d: d.update(ProcessType="Background"), "throttles"),
    "restart for ever": (lambda d: d.update(KeepAlive={"Crashed": True}), "exit 0 stays down"),
    "open umask": (lambda d: d.update(Umask=22), "must be 63"),
    "core dumps": (lambda d: d["HardResourceLimits"].update(Core=1), "the user's text"),
    "no time to drain": (lambda d: d.update(ExitTimeOut=2), "5 s to drain"),
    "nice": (lambda d: d.update(Nice=-20), "Nice"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_seeded_fault_is_found_and_nothing_else(name: str) -> None:
    change, said = FAULTS[name]
    job = job_dict(JOB)
    change(job)

    problems = lint(plistlib.dumps(job), FILE_NAME)

    assert len(problems) == 1, problems
    assert said in problems[0]


@pytest.mark.parametrize(
    "content",
    [
        b"\n" + render(JOB),
        render(JOB).replace(b"Application Support", b"Application & Support"),
        b"",
        plistlib.dumps(job_dict(JOB), fmt=plistlib.FMT_BINARY),
    ],
    ids=["leading newline", "bare ampersand", "empty", "binary"],
)
def test_what_is_not_an_xml_plist_is_refused(content: bytes) -> None:
    (problem,) = lint(content, FILE_NAME)

    assert problem.startswith("not an XML property list")


def test_a_program_in_a_folder_macos_guards_is_found() -> None:
    user_home = Path("/Users/you")
    in_documents = job_of(user_home / "Documents")

    assert find_guarded_folder(in_documents, user_home) == user_home / "Documents"
    assert find_guarded_folder(JOB, user_home) is None
