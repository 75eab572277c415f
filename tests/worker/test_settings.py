"""Settings: what is wrong is named, what is secret is not shown."""

from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import ValidationError

from worker.settings import WrongSettings, load

DATABASE = "postgresql://u:hunter2@h/d"


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATABASE_URL", "REDIS_URL", "QUEUE", "POLICIES", "HTTP"):
        monkeypatch.delenv(f"LOWTIDE_{name}", raising=False)


def test_a_missing_variable_is_named() -> None:
    with pytest.raises(WrongSettings, match=r"^LOWTIDE_DATABASE_URL: is not set$"):
        load()


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("DATABASE_URL", "mysql://u:hunter2@h/d", "starts with postgresql://"),
        ("REDIS_URL", "http://u:hunter2@h", "starts with redis://"),
        ("REDIS_URL", "redis+sentinel://u:hunter2@h", "a Sentinel URL is redis.sentinel://"),
        ("QUEUE", "", "at least 1 character"),
        ("PARALLEL_RUNS", "0", "greater than or equal to 1"),
        ("LEASE", "0.1", "greater than or equal to"),
        ("PARALLEL_RUNS", "hunter2", "valid integer"),
        ("LEASE", "hunter2", "valid timedelta"),
        ("LEASE", "inf", ""),
        ("LEASE", "1e30", ""),
        ("TICK", "-1", "greater than or equal to"),
        ("DATABASE_URL", "", "starts with postgresql://"),
        ("DATABASE_URL", "postgresql://u:hunter2\uff0f@h/d", ""),  # NFKC makes a slash of it, which urllib refuses
        ("REDIS_URL", "redis://u:hunter2\uff0f@h", ""),
        ("REDIS_URL", "redis://:hunter2@h:port", ""),
        ("HTTP", "", "a port, or an address and a port"),
        ("HTTP", "0", "a port, or an address and a port"),
        ("HTTP", "65536", "a port, or an address and a port"),
        ("HTTP", "hunter2", "a port, or an address and a port"),
        ("HTTP", ":9187", "a port, or an address and a port"),
        ("HTTP", "::1:9187", "a port, or an address and a port"),
        ("HTTP", "u:hunter2@h:9187", "a port, or an address and a port"),
        ("HTTP", "9187\n", "a port, or an address and a port"),
    ],
)
def test_a_wrong_variable_is_named_and_its_value_not_shown(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, told: str
) -> None:
    monkeypatch.setenv("LOWTIDE_DATABASE_URL", DATABASE)
    monkeypatch.setenv(f"LOWTIDE_{name}", value)
    with pytest.raises(WrongSettings, match=f"LOWTIDE_{name}: .*{told}") as caught:
        load()
    assert "hunter2" not in str(caught.value)


def test_every_wrong_variable_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOWTIDE_QUEUE", "")
    monkeypatch.setenv("LOWTIDE_PARALLEL_RUNS", "0")
    with pytest.raises(WrongSettings) as caught:
        load()
    named = [fault.partition(":")[0] for fault in str(caught.value).split("; ")]
    assert named == ["LOWTIDE_DATABASE_URL", "LOWTIDE_QUEUE", "LOWTIDE_PARALLEL_RUNS"]


def test_policies_are_those_of_the_file_in_the_folder_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load(database_url=DATABASE).policies is None
    (tmp_path / "lowtide.toml").touch()
    assert load(database_url=DATABASE).policies == Path("lowtide.toml")
    monkeypatch.setenv("LOWTIDE_POLICIES", "other/nothing-here.toml")
    assert load(database_url=DATABASE).policies == Path("other/nothing-here.toml")
    monkeypatch.setenv("LOWTIDE_POLICIES", "")
    assert load(database_url=DATABASE).policies is None


def test_a_link_to_nowhere_is_not_passed_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lowtide.toml").symlink_to("nowhere")
    assert load(database_url=DATABASE).policies == Path("lowtide.toml")


@pytest.mark.parametrize("name", ["lease", "slice", "tick", "shutdown"])
def test_lengths_of_time_are_seconds(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("LOWTIDE_DATABASE_URL", DATABASE)
    monkeypatch.setenv(f"LOWTIDE_{name.upper()}", "2.5")
    assert getattr(load(), name) == timedelta(seconds=2.5)


@pytest.mark.parametrize(
    ("value", "taken"), [("0.999", False), ("1", True), ("600", True), ("600.001", False), ("PT2S", True)]
)
def test_a_lease_is_between_a_second_and_ten_minutes(monkeypatch: pytest.MonkeyPatch, value: str, taken: bool) -> None:
    monkeypatch.setenv("LOWTIDE_LEASE", value)
    if taken:
        load(database_url=DATABASE)
    else:
        with pytest.raises(WrongSettings, match=r"^LOWTIDE_LEASE: Input should be (less|greater) than or equal to"):
            load(database_url=DATABASE)


@pytest.mark.parametrize(
    ("value", "address"),
    [
        ("9187", "127.0.0.1:9187"),
        ("1", "127.0.0.1:1"),
        ("65535", "127.0.0.1:65535"),
        ("0.0.0.0:9187", "0.0.0.0:9187"),
        ("[::1]:9187", "[::1]:9187"),
        ("localhost:9187", "localhost:9187"),
    ],
)
def test_a_port_alone_is_for_this_machine_alone(monkeypatch: pytest.MonkeyPatch, value: str, address: str) -> None:
    monkeypatch.setenv("LOWTIDE_HTTP", value)
    assert load(database_url=DATABASE).http == address


def test_nothing_is_served_over_http_unless_asked_for() -> None:
    assert load(database_url=DATABASE).http is None


def test_settings_do_not_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOWTIDE_DATABASE_URL", DATABASE)
    with pytest.raises(ValidationError, match="frozen"):
        load().queue = "other"  # type: ignore[misc]  # the point of the test


def test_passwords_are_in_no_repr() -> None:
    settings = load(database_url=DATABASE, redis_url="redis://:hunter2@h")
    assert "hunter2" not in repr(settings)
    assert "hunter2" not in str(settings)


@pytest.mark.parametrize(("runs", "database", "redis"), [(1, 11, 10), (4, 26, 16), (100, 506, 208)])
def test_pools_have_what_the_runs_at_once_can_use(runs: int, database: int, redis: int) -> None:
    settings = load(database_url="postgresql://h/d", parallel_runs=runs)
    assert (settings.database_pool, settings.redis_pool) == (database, redis)


@pytest.mark.parametrize(("name", "least"), [("database_pool", 15), ("redis_pool", 8)])
def test_a_pool_in_which_runs_would_wait_for_each_other_is_refused(name: str, least: int) -> None:
    assert getattr(load(database_url="postgresql://h/d", **{name: least}), name) == least
    with pytest.raises(WrongSettings, match=f"LOWTIDE_{name.upper()}: 4 runs at once .* need at least {least}"):
        load(database_url="postgresql://h/d", **{name: least - 1})
