"""Commands as messages name them, ready for a shell: ids and names come from others."""

import shlex


def lowtide(*words: str) -> str:
    return f"`{shlex.join(('lowtide', *words))}`"
