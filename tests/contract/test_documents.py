"""README, Dockerfile and docker-compose.yml say what the program does."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from jobs.catalog import PAYLOADS
from worker.cli.main import app
from worker.settings import Settings, load

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def _rows(heading: str) -> list[list[str]]:
    """The cells of the first table under a heading, without its head."""
    section = README.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_every_job_is_described_with_every_field_of_its_payload() -> None:
    described = {row[0].strip("`"): row[1] for row in _rows("The jobs")}
    assert list(described) == list(PAYLOADS)
    for name, payload in PAYLOADS.items():
        fields = set(payload.model_fields)
        assert {field for field in fields if f"`{field}`" in described[name]} == fields


def test_every_command_is_described_and_no_other() -> None:
    described = [row[0].strip("`").removeprefix("lowtide ") for row in _rows("Commands")]
    assert described == list(get_command(app).commands)  # type: ignore[attr-defined]  # typer's group


def test_every_setting_is_described_with_its_default() -> None:
    described = {row[0].strip("`"): row[1].strip("`") for row in _rows("Settings")}
    defaults = {f"LOWTIDE_{name.upper()}": _default(name) for name in Settings.model_fields}
    assert described == defaults


def _default(name: str) -> str:
    default = Settings.model_fields[name].get_default()
    if hasattr(default, "total_seconds"):
        return f"{default.total_seconds():g}"
    return "" if default is None or Settings.model_fields[name].is_required() else str(default)


def test_every_command_line_in_the_readme_parses() -> None:
    used = set(re.findall(r"lowtide (\w+)", " ".join(re.findall(r"```sh\n(.*?)```", README, re.DOTALL))))
    assert used
    assert used <= set(get_command(app).commands)  # type: ignore[attr-defined]  # as above


def test_every_target_named_in_the_readme_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"make ([a-z]+)", README)) - {"waves", "demo"} <= targets


def test_no_placeholder_is_left() -> None:
    assert "@" not in README.replace("user:password@host", "").replace("user@/database", "")


@pytest.fixture
def compose() -> dict[str, Any]:
    parsed: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return parsed


def test_compose_sets_only_settings_that_exist_and_that_load(compose: dict[str, Any]) -> None:
    for service in ("migrate", "worker"):
        given = compose["services"][service]["environment"]
        names = {name.removeprefix("LOWTIDE_").lower(): value for name, value in given.items()}
        assert set(names) <= set(Settings.model_fields)
        load(**names)


def test_compose_names_its_own_servers_and_commands(compose: dict[str, Any]) -> None:
    services = compose["services"]
    settings = services["worker"]["environment"]
    server = services["postgres"]["environment"]
    expected = (
        f"postgresql://{server['POSTGRES_USER']}:{server['POSTGRES_PASSWORD']}@postgres:5432/{server['POSTGRES_DB']}"
    )
    assert settings["LOWTIDE_DATABASE_URL"] == expected
    assert settings["LOWTIDE_REDIS_URL"].startswith("redis://valkey:")
    commands = get_command(app).commands  # type: ignore[attr-defined]  # as above
    assert {services[name]["command"][0] for name in ("migrate", "worker")} <= set(commands)


def test_the_image_holds_the_three_packages_and_the_locked_versions() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert re.findall(r"^COPY (\w+) \1$", dockerfile, re.MULTILINE) == packages["packages"]

    everything, image = (_locked(name) for name in ("requirements.lock", "requirements-worker.lock"))
    assert {"sqlalchemy", "arq", "hatchling"} <= set(image)
    assert image.items() <= everything.items()
    assert "pytest" not in image


def _locked(name: str) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", (ROOT / name).read_text(), re.MULTILINE))


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-worker.lock"])
def test_the_lock_names_no_index_and_has_a_hash_for_everything(name: str) -> None:
    text = (ROOT / name).read_text()
    assert "index-url" not in text
    assert "://" not in text
    assert len(re.findall(r"^[a-z0-9-]+==.*\\\n    --hash=", text, re.MULTILINE)) == len(_locked(name))
