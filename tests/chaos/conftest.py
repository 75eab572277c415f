"""Which faults are played, so that they can be played again; and what they showed."""

import pytest

from tests.chaos import scale


def pytest_report_header() -> str:
    return f"chaos: {'long' if scale.LONG else 'short'} form, CHAOS_SEED={scale.SEED}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for figure in scale.TOLD:
        terminalreporter.write_line(f"chaos: {figure}")
