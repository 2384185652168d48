"""A simulated observatory brought up by config.py, which the tests of a file share."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import config as script
from panoseti import console
from simulator.private_observatory import PrivateObservatory, private_observatory
from tests.config_calls import Answer, config, write_data

TIME_SCALE = 50.0
Look = Callable[..., Answer]
"""As config_calls.config, in this process (much sooner): for what starts no daemon."""


@contextmanager
def fresh_observatory(folder: Path) -> Iterator[PrivateObservatory]:
    """Eight boards as after power-on; paths with blanks."""
    with private_observatory(
        folder,
        time_scale=TIME_SCALE,
        data_dir=folder / "head data",
        obs_fields={"hk_max_age_s": 4},
    ) as observatory:
        yield observatory


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateObservatory]:
    """Brought up."""
    with fresh_observatory(tmp_path_factory.mktemp("ready")) as observatory:
        answer = config(observatory)
        assert answer.code == 0, answer
        yield observatory


@pytest.fixture
def look(
    ready: PrivateObservatory,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Look:
    """For questions to it, and what else is soon done."""
    monkeypatch.chdir(ready.command_dir)
    monkeypatch.setattr(sys, "argv", ["config.py"])

    def call(*words: str) -> Answer:
        capsys.readouterr()
        code = console.call(script.main, words)
        said = capsys.readouterr()
        return Answer(code, said.out, said.err)

    return call


def restore(observatory: PrivateObservatory, look: Look) -> None:
    """Whatever a test did: faults ended, configs as they were, everything ready."""
    with observatory.client() as client:
        client.fault("all", "none")
    write_data(observatory)
    answer = look()
    assert answer.code == 0, answer
