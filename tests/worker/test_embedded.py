"""Embedded servers: they answer, they keep what they should, and nothing is left behind."""

import os
import pwd
import shutil
import signal
import site
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from redis.asyncio import Redis

from tests.eventually import eventually
from worker.embedded import EmbeddedError, Postgres, Valkey

ROOT = Path(__file__).parents[2]
BOTH_THEN_WAIT = """
import asyncio, sys
from worker.embedded import Postgres, Valkey

async def main():
    async with Postgres() as postgres, Valkey() as valkey:
        print(postgres.pid, valkey.pid, postgres.folder, valkey.folder, flush=True)
        sys.stdin.read()

asyncio.run(main())
"""


async def test_both_answer_over_tcp_and_over_their_socket() -> None:
    async with Postgres() as postgres, Valkey() as valkey:
        for url in (postgres.url, postgres.socket_url):
            connection = await asyncpg.connect(url)
            assert await connection.fetchval("SELECT current_user") == "postgres"
            await connection.close()
        for url in (valkey.url, valkey.socket_url):
            assert url is not None
            async with Redis.from_url(url) as client:
                assert await client.ping()


@pytest.mark.parametrize("immediate", [False, True])
async def test_a_stop_keeps_the_data_and_a_start_returns_to_the_port(immediate: bool) -> None:
    async with Postgres() as postgres:
        url = postgres.url
        await _execute(url, "CREATE TABLE kept AS SELECT 7 AS n; CHECKPOINT")
        await postgres.stop(immediate=immediate)
        assert not is_alive(postgres.pid)
        await postgres.start()

        assert postgres.url == url
        connection = await asyncpg.connect(url)
        assert await connection.fetchval("SELECT n FROM kept") == 7
        await connection.close()


async def test_nothing_is_left_after_the_end() -> None:
    async with Postgres() as postgres, Valkey() as valkey:
        pass
    for server in (postgres, valkey):
        assert not is_alive(server.pid)
        assert not server.folder.exists()


async def test_nothing_is_left_when_our_process_is_killed() -> None:
    """Control: servers started as plain children live on."""
    with _start(BOTH_THEN_WAIT) as parent:
        assert parent.stdout is not None
        *pids, first, second = parent.stdout.readline().split()
        watchdogs = [_parent_of(int(pid)) for pid in pids]
        assert all(is_alive(int(pid)) for pid in pids)
        parent.send_signal(signal.SIGKILL)

    await eventually(lambda: not any(is_alive(int(pid)) for pid in [*pids, *watchdogs]))
    assert [first, second] == [folder for folder in (first, second) if not os.access(folder, os.F_OK)]


async def test_a_killed_watchdog_takes_its_server_with_it() -> None:
    """By PR_SET_PDEATHSIG, so on Linux alone."""
    if sys.platform != "linux":
        pytest.skip("only Linux tells a child of its parent's death")
    async with Valkey() as valkey:
        os.kill(_parent_of(valkey.pid), signal.SIGKILL)
        await eventually(lambda: not is_alive(valkey.pid))
        folder = valkey.folder
    _remove(folder)


async def test_a_server_that_ends_by_itself_is_noticed() -> None:
    async with Valkey() as valkey:
        assert not valkey.exited.is_set()
        os.kill(valkey.pid, signal.SIGKILL)
        await eventually(valkey.exited.is_set)


@pytest.mark.parametrize("name", ["with a space", "it's", "größe ☂", "back\\slash", "x" * 150])
async def test_a_kept_folder_may_have_any_name(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    folder = _passable(tmp_path_factory) / name
    async with Postgres(folder / "p") as postgres, Valkey(folder / "v") as valkey:
        await _execute(postgres.url, "CREATE TABLE kept AS SELECT 7 AS n")
        assert (postgres.socket_url is None) == (len(name) > 100)
        assert (valkey.socket_url is None) == (len(name) > 100)
    async with Postgres(folder / "p") as postgres:
        await _execute(postgres.url, "TABLE kept")
        mode = stat.S_IMODE((folder / "p").stat().st_mode)
    assert mode == 0o700


@pytest.mark.parametrize("kind", [Postgres, Valkey])
async def test_a_folder_in_use_is_refused_and_the_first_goes_on(
    tmp_path_factory: pytest.TempPathFactory, kind: type[Postgres | Valkey]
) -> None:
    folder = _passable(tmp_path_factory) / "kept"
    async with kind(folder) as first:
        with pytest.raises(EmbeddedError, match="in use by another"):
            await kind(folder).start()
        assert await first.answers()


async def test_a_pid_file_of_a_crashed_machine_does_not_block(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = _passable(tmp_path_factory) / "kept"
    async with Postgres(folder):
        pass
    (folder / "data" / "postmaster.pid").write_text(f"{os.getpid()}\n{folder}/data\n")
    if os.geteuid() == 0:
        os.chown(folder / "data" / "postmaster.pid", 65534, 65534)
    async with Postgres(folder) as again:
        assert await again.answers()


async def test_a_server_that_can_not_start_says_why() -> None:
    with pytest.raises(EmbeddedError, match="no_such_parameter"):
        await Postgres(settings={"no_such_parameter": "1"}).start()


@pytest.mark.skipif(os.geteuid() != 0, reason="as an ordinary user every test of this file is this test")
def test_an_ordinary_user_can_run_both() -> None:
    nobody = pwd.getpwnam("nobody")
    given: dict[str, Any] = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
    python = next((path for path in _pythons() if _can_import(path, given)), None)
    if python is None:
        pytest.skip("no Python here is readable for an ordinary user, so none can run it")
    code = BOTH_THEN_WAIT.replace("sys.stdin.read()", "assert await postgres.answers() and await valkey.answers()")
    done = subprocess.run(
        [python, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False, env=_environment(), **given
    )
    assert done.returncode == 0, done.stderr
    assert not any(Path(folder).exists() for folder in done.stdout.split()[2:])


@pytest.mark.skipif(os.geteuid() != 0, reason="as an ordinary user the programs stay where they are installed")
async def test_as_root_a_folder_that_a_shell_would_read_wrongly_is_refused(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with pytest.raises(EmbeddedError, match="hands their path to a shell"):
        await Valkey(_passable(tmp_path_factory) / 'a"b').start()


@pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user's servers run as that user")
async def test_as_root_a_folder_that_the_servers_could_not_enter_is_refused(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(EmbeddedError, match="may not enter"):
        await Valkey(closed / "kept").start()
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700


def is_alive(pid: int) -> bool:
    """Running; what has ended and was not yet collected does not count."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def _pythons() -> list[str]:
    """Ours, and the system's of the same version: root's own may lie where nobody else can read."""
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    system = shutil.which(name, path="/usr/local/bin:/usr/bin:/bin")
    return [sys.executable, *([system] if system else [])]


def _can_import(python: str, given: dict[str, Any]) -> bool:
    probe = [python, "-c", "import worker.embedded"]
    try:
        return (
            subprocess.run(probe, cwd=ROOT, capture_output=True, check=False, env=_environment(), **given).returncode
            == 0
        )
    except PermissionError:
        return False


def _parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def _start(code: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=_environment(),
    )


def _environment() -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join([str(ROOT), *site.getsitepackages()]),
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def _passable(factory: pytest.TempPathFactory) -> Path:
    """A temporary folder that the servers' account may pass through: pytest's own is for its user alone."""
    folder = factory.mktemp("kept")
    for part in (folder, *folder.parents):
        if part.name.startswith(("pytest-", "kept")):
            part.chmod(0o711)
    return folder


def _remove(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    folder.rmdir()


async def _execute(url: str, statements: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute(statements)
    await connection.close()
