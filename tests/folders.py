"""Folders that the embedded servers can use."""

from pathlib import Path

import pytest


def passable(factory: pytest.TempPathFactory) -> Path:
    """A temporary folder that the servers' account may pass through: pytest's own is for its user alone."""
    folder = factory.mktemp("kept")
    for part in (folder, *folder.parents):
        if part.name.startswith(("pytest-", "kept")):
            part.chmod(0o711)
    return folder
