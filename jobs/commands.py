"""Commands as messages name them, ready for a shell: ids and names come from others."""

import shlex


def lowtide(*words: str) -> str:
    return f"`{line(*words)}`"


def line(*words: str) -> str:
    """The same for a program, without the marks."""
    return shlex.join(("lowtide", *words))
