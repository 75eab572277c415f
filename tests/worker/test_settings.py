"""Settings: what is wrong is named, what is secret is not shown."""

from datetime import timedelta
from pathlib import Path

import pytest

from worker.settings import WrongSettings, load

DATABASE = "postgresql://u:hunter2@h/d"


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATABASE_URL", "REDIS_URL", "QUEUE", "POLICIES"):
        monkeypatch.delenv(f"LOWTIDE_{name}", raising=False)


def test_a_missing_variable_is_named() -> None:
    with pytest.raises(WrongSettings, match=r"^LOWTIDE_DATABASE_URL: is not set$"):
        load()


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("DATABASE_URL", "mysql://u:hunter2@h/d", "starts with postgresql://"),
        ("REDIS_URL", "http://u:hunter2@h", "starts with redis://"),
        ("REDIS_URL", "redis+sentinel://u:hunter2@h/m", "starts with redis://"),
        ("QUEUE", "", "at least 1 character"),
        ("PARALLEL_RUNS", "0", "greater than or equal to 1"),
        ("LEASE", "0.1", "greater than or equal to"),
        ("POLICIES", "lowtide.toml", "not read by this version"),
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


def test_a_policy_file_in_the_folder_is_not_passed_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    load(database_url=DATABASE)
    (tmp_path / "lowtide.toml").write_text("")
    with pytest.raises(WrongSettings, match=r"LOWTIDE_POLICIES: lowtide.toml is not read"):
        load(database_url=DATABASE)


def test_lengths_of_time_are_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOWTIDE_DATABASE_URL", DATABASE)
    monkeypatch.setenv("LOWTIDE_LEASE", "2.5")
    assert load().lease == timedelta(seconds=2.5)


def test_passwords_are_in_no_repr() -> None:
    settings = load(database_url=DATABASE, redis_url="redis://:hunter2@h")
    assert "hunter2" not in repr(settings)
    assert "hunter2" not in str(settings)
