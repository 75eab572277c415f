"""Under which account a server runs, from where, and in which folder.

PostgreSQL refuses to run as root. As root we use the account `nobody`, and a copy of the binaries that it can read.
"""

import importlib.util
import os
import pwd
import shutil
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

UNPRIVILEGED = "nobody"
# sockaddr_un.sun_path: 108 bytes on Linux, 104 on macOS, with the final NUL; and the socket's own name.
LONGEST_SOCKET_FOLDER = 80
# What a shell does not leave alone between double quotes.
SHELL_EXPANDS = set('"$`')


class EmbeddedError(Exception):
    """An embedded server can't be had: not installed, not started, or its folder is not usable."""


@dataclass(frozen=True)
class Account:
    """`user_id` is None when the servers run as we do."""

    user_id: int | None

    @classmethod
    def for_servers(cls) -> "Account":
        return cls(pwd.getpwnam(UNPRIVILEGED).pw_uid if os.geteuid() == 0 else None)

    def own(self, path: Path) -> None:
        if self.user_id is not None:
            os.chown(path, self.user_id, self.user_id)


def temporary_folder(kind: str, account: Account) -> Path:
    folder = Path(tempfile.mkdtemp(prefix=f"lowtide-{kind}-"))
    account.own(folder)
    _require_passage(folder, account)
    return folder


def kept_folder(folder: Path, account: Account) -> Path:
    """The folder, made if need be, for its owner's eyes only. Raises EmbeddedError where the account can't enter it."""
    resolved = folder.resolve()
    resolved.mkdir(mode=0o700, parents=True, exist_ok=True)
    account.own(resolved)
    _require_passage(resolved, account)
    return resolved


def _require_passage(folder: Path, account: Account) -> None:
    if account.user_id is None:
        return
    for parent in folder.parents:
        if not parent.stat().st_mode & stat.S_IXOTH:
            raise EmbeddedError(
                f"{folder} can't be used: as root the servers run as {UNPRIVILEGED!r}, which may not enter {parent}. "
                "Choose a folder outside of it, or run as an ordinary user"
            )


def package(name: str) -> Path:
    """Where a wheel's files are, without importing it: its modules have side effects."""
    found = importlib.util.find_spec(name)
    if found is None or found.origin is None:
        raise EmbeddedError(f"the package {name} is not installed; pip install 'lowtide[embedded]' brings the servers")
    return Path(found.origin).parent


def readable(source: Path, parts: tuple[str, ...], folder: Path, account: Account, *, version: str) -> Path:
    """`source`, or as root a copy of its parts inside `folder`, which is kept while it is of the same version."""
    if account.user_id is None:
        return source
    if set(str(folder)) & SHELL_EXPANDS:
        raise EmbeddedError(
            f"{folder} can't be used as root: the servers' programs would lie in it, and initdb hands their path to a "
            f"shell. Choose a folder without {' '.join(sorted(SHELL_EXPANDS))}"
        )
    copy = folder / "binaries" / version
    if not copy.exists():
        shutil.rmtree(copy.parent, ignore_errors=True)
        for part in parts:
            _copy(source / part, copy.with_name("unfinished") / part)
        copy.with_name("unfinished").rename(copy)
        copy.parent.chmod(0o755)
    return copy


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, symlinks=True)
    else:
        shutil.copy2(source, target)
