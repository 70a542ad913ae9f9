from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from groupcoap.bench.collect import run


def test_figures_of_a_short_run_have_their_shape() -> None:
    figures = run(rounds=2)
    assert set(figures) == {"collect"}
    collect = figures["collect"]
    assert set(collect) == {"rate", "bare_rate", "ratio"}
    assert all(value > 0 for value in collect.values())


def has_both_children(process: int) -> bool:
    """The listeners' process, and the one that multiprocessing itself starts before it."""
    return len(Path(f"/proc/{process}/task/{process}/children").read_text().split()) == 2


@pytest.mark.processes
def test_ctrl_c_ends_it_and_its_process_without_a_word() -> None:
    command = [sys.executable, "-m", "groupcoap", "bench", "collect"]
    program = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    try:
        while not has_both_children(program.pid):
            assert program.poll() is None
            time.sleep(0.02)
        time.sleep(0.3)  # the listeners' process still imports, or signs
        os.killpg(program.pid, signal.SIGINT)
        output, error = program.communicate(timeout=20)
    finally:
        program.kill()
    assert (program.returncode, output.strip(), error.strip()) == (130, b"", b"")
