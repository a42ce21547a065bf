"""What a job's init does for others: who outlives it learns of its end, and its timeout is kept. Without a pod."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from dms_executor.kubernetes.lines import Lines
from dms_executor.supervisor.binary import init_path

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a pid namespace takes root")

_INSIDE = ["unshare", "--pid", "--fork", "--kill-child=KILL", "--mount-proc"]


def begun(*words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([*_INSIDE, str(init_path()), *words], stdout=subprocess.PIPE)


@pytest.mark.parametrize("end", ["exits", "killed"])
def test_what_stands_beside_a_job_ends_after_it(tmp_path: Path, end: str) -> None:
    held, report = tmp_path / "held", tmp_path / "report"
    report.touch()
    beside = begun("-z", "0", str(held))
    job = begun("-l", str(report), "-u", str(held), "--", "sh", "-c", "echo here; exec sleep 1000")
    assert job.stdout is not None
    while b"o 0" not in job.stdout.readline():  # its first output: the job runs
        pass
    assert held.read_bytes() == b"1"
    with pytest.raises(subprocess.TimeoutExpired):
        beside.wait(0.5)
    if end == "killed":
        job.kill()
    else:
        children = Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()
        os.kill(int(children[0]), signal.SIGTERM)
    assert beside.wait(30) == 0
    job.wait(30)


def test_what_is_executed_beside_it_may_end(tmp_path: Path) -> None:
    held, says = tmp_path / "held", "echo in; cat"
    held.write_bytes(b"1")
    hold = subprocess.Popen(["flock", str(held), "sh", "-c", says], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert hold.stdout is not None
    hold.stdout.readline()
    beside = begun("-z", "0", str(held))
    try:
        while not (inside := Path(f"/proc/{beside.pid}/task/{beside.pid}/children").read_text().split()):
            assert beside.poll() is None
        enter = ["nsenter", "-t", inside[0], "-p", "sh", "-c", says]
        fetch = subprocess.Popen(enter, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert fetch.stdout is not None
        fetch.stdout.readline()
        hold.communicate(timeout=60)
        with pytest.raises(subprocess.TimeoutExpired):
            beside.wait(1)
        fetch.communicate(timeout=60)
        assert beside.wait(60) == 0
    finally:
        for process in (hold, beside):
            process.kill()
            process.wait()


def test_it_can_be_told_to_go(tmp_path: Path) -> None:
    beside = begun("-z", "1000", str(tmp_path / "held"))
    while not (tmp_path / "held").exists():
        assert beside.poll() is None
    children = Path(f"/proc/{beside.pid}/task/{beside.pid}/children").read_text().split()
    os.kill(int(children[0]), signal.SIGTERM)
    assert beside.wait(30) == 0


@pytest.mark.parametrize(
    ("script", "status"),
    [("echo here; exec sleep 1000", 15), ("trap 'exit 7' TERM; while :; do sleep 0.1; done", 7 << 8)]
    + [("trap '' TERM; while :; do sleep 0.1; done", 9)],
)
def test_a_jobs_init_keeps_its_timeout(tmp_path: Path, script: str, status: int) -> None:
    report = tmp_path / "report"
    report.touch()
    job = begun("-l", str(report), "-d", "300:300", "--", "sh", "-c", script)
    log, _ = job.communicate(timeout=60)
    lines = Lines()
    for _ in lines.take(log):
        pass
    assert (lines.report.status, lines.report.timed_out) == (status, True)


def test_a_job_that_ends_in_time_has_not_timed_out(tmp_path: Path) -> None:
    report = tmp_path / "report"
    report.touch()
    log, _ = begun(
        "-l", str(report), "-d", "60000:0", "--", "sh", "-c", "trap '' ALRM; kill -ALRM 1; exit 3"
    ).communicate(timeout=60)
    lines = Lines()
    for _ in lines.take(log):
        pass
    assert (lines.report.status, lines.report.timed_out) == (3 << 8, False)


def test_a_job_cannot_drown_its_timeout_in_signals(tmp_path: Path) -> None:
    report = tmp_path / "report"
    report.touch()
    flood = "while :; do kill -ALRM 1; done"
    script = f"trap '' ALRM TERM; ({flood}) & ({flood}) & {flood}"
    log, _ = begun("-l", str(report), "-d", "300:300", "--", "sh", "-c", script).communicate(timeout=60)
    lines = Lines()
    for _ in lines.take(log):
        pass
    assert (lines.report.status, lines.report.timed_out) == (9, True)


def test_a_job_that_asks_for_a_grace_itself_has_timed_out_all_the_same(tmp_path: Path) -> None:
    report = tmp_path / "report"
    report.touch()
    script = f"trap '' TERM; {init_path()} -k 18 600000; while :; do sleep 0.1; done"  # CONT, with a grace
    log, _ = begun("-l", str(report), "-d", "300:300", "--", "sh", "-c", script).communicate(timeout=60)
    lines = Lines()
    for _ in lines.take(log):
        pass
    assert (lines.report.status, lines.report.timed_out) == (9, True)


@pytest.mark.parametrize("is_let_go", [False, True])
def test_what_is_withdrawn_never_runs_and_what_runs_is_not_withdrawn(tmp_path: Path, is_let_go: bool) -> None:
    report = tmp_path / "report"
    report.touch()
    job = begun("-l", str(report), "-w", "--", "sh", "-c", "echo here; exec sleep 1000")
    assert job.stdout is not None
    heard = job.stdout.readline()  # it is born
    inside = Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()[0]

    def told(word: str) -> None:
        command = ["nsenter", "-t", inside, "-p", str(init_path()), "-k", word]
        done = subprocess.run(command, check=False, timeout=60)
        # Whoever is in the namespace whose first process ends goes with it.
        assert done.returncode in ((0,) if is_let_go else (0, -signal.SIGKILL))

    if is_let_go:
        told("18")
        while b"o 0" not in heard:
            heard += job.stdout.readline()
        told("0")
        told("15")
    else:
        told("0")
    log, _ = job.communicate(timeout=60)
    lines = Lines()
    for _ in lines.take(heard + log):
        pass
    assert (lines.report.status, lines.tells_of_a_job) == ((15, True) if is_let_go else (None, False))


@pytest.mark.parametrize("limit", [[], ["-d", "600000:0"]])
def test_a_job_that_kills_all_it_can_does_not_outlive_its_grace(tmp_path: Path, limit: list[str]) -> None:
    report = tmp_path / "report"
    report.touch()
    script = "trap 'kill -9 -1' TERM; echo here; while :; do sleep 0.1; done"
    job = begun("-l", str(report), *limit, "--", "sh", "-c", script)
    assert job.stdout is not None
    heard = job.stdout.readline()
    while b"o 0" not in heard:
        heard += job.stdout.readline()
    inside = Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()[0]
    subprocess.run(["nsenter", "-t", inside, "-p", str(init_path()), "-k", "15", "500"], check=True, timeout=60)
    log, _ = job.communicate(timeout=60)
    lines = Lines()
    for _ in lines.take(heard + log):
        pass
    assert (lines.report.status, lines.report.timed_out) == (9, False)


@pytest.mark.parametrize("sender", ["node", "beside"])
def test_a_signal_of_a_node_is_told_from_one_that_was_executed_beside(tmp_path: Path, sender: str) -> None:
    report = tmp_path / "report"
    report.touch()
    job = begun("-l", str(report), "--", "sh", "-c", "trap 'exit 3' TERM; echo here; while :; do sleep 0.1; done")
    assert job.stdout is not None
    heard = job.stdout.readline()
    while b"o 0" not in heard:
        heard += job.stdout.readline()
    inside = Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()[0]
    if sender == "node":
        os.kill(int(inside), signal.SIGTERM)
    else:
        subprocess.run(["nsenter", "-t", inside, "-p", str(init_path()), "-k", "15"], check=False, timeout=60)
    log, _ = job.communicate(timeout=60)
    lines = Lines()
    for _ in lines.take(b"\n".join([*heard.split(b"\n")[-2:-1], *log.split(b"\n")[-8:]])):
        pass
    assert (lines.report.status, lines.report.outside) == (3 << 8, sender == "node")
