"""The site for commands that must get through: other configs by now, a head node that has lost its
address or is mistyped, a dead name server.
"""

from __future__ import annotations

from pathlib import Path

import pytest

import status
from panoseti.bringup import off_first
from panoseti.configs.load_configs import Site, load_site
from panoseti.configs.site_at_any_price import check_head_node, find_site
from panoseti.console import Console
from panoseti.errors import ConfigError, RefusedError
from panoseti.runs.run_record import RUN_JSON, Expected, RunRecord, new_document
from panoseti.runs.run_state import claim, new_holder, read_holder, release
from tests.site_files import DAQ, changed, write_site

RUN = "obs_Test.start_2024-07-25T04:34:06Z.runtype_sci-data.pffd"


def site_for(folder: Path, data_dir: Path, head: str = "127.0.0.1") -> Path:
    changes: dict[tuple[str | int, ...], str] = {
        ("head_node_data_dir",): str(data_dir), ("head_node_ip_addr",): head,
    }  # fmt: skip
    return write_site(folder, daq=changed(DAQ, changes))


def test_a_data_directory_that_the_configs_no_longer_name(tmp_path: Path) -> None:
    """They were edited for the next night; the run that goes on has copies of its own."""
    old, new = tmp_path / "old", tmp_path / "new"
    for folder in (old, new):
        folder.mkdir()
    command_dir = site_for(tmp_path / "site", new)
    with pytest.raises(ConfigError, match="frozen copies"):
        find_site(command_dir, old)
    site_for(old / RUN, old)
    found = find_site(command_dir, old)
    assert found.site.head_data_dir == old and str(new) in found.notes[0], found
    for said in (None, new, tmp_path / "site" / ".." / "new"):
        found = find_site(command_dir, said)
        assert (found.site.head_data_dir, found.notes) == (new, ())


def test_a_data_directory_that_is_gone_is_still_the_one_of_the_configs(tmp_path: Path) -> None:
    found = find_site(site_for(tmp_path / "site", tmp_path / "gone"), tmp_path / "gone")
    assert found.notes == ()


def test_the_head_node_when_its_name_does_not_resolve(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    site = load_site(site_for(tmp_path / "site", data_dir, "head.invalid"), data_config=False)
    with pytest.raises(RefusedError, match="head.invalid.*type it on the head node"):
        check_head_node(site)
    data_dir.mkdir()
    (note,) = check_head_node(site)
    assert "head.invalid" in note and str(data_dir) in note
    here = load_site(site_for(tmp_path / "other", data_dir), data_config=False)
    assert check_head_node(here) == []


def away_from(folder: Path, data_dir: Path) -> Site:
    """Its head node has another address than this computer, by now or by mistake."""
    return load_site(site_for(folder, data_dir, "192.0.2.7"), data_config=False)


def test_a_run_that_was_begun_here_can_be_ended_here_whatever_the_address(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    site = away_from(tmp_path / "site", data_dir)
    with pytest.raises(RefusedError, match="192.0.2.7"):
        check_head_node(site)
    holder = new_holder(RUN, tmp_path, data_dir)
    claim(data_dir, holder)
    (note,) = check_head_node(site)
    assert "192.0.2.7" in note and f"{RUN} is in progress here" in note
    release(data_dir, RUN)
    (data_dir / RUN).mkdir()
    with pytest.raises(RefusedError):
        check_head_node(site)
    RunRecord(data_dir / RUN, new_document(holder, (), {}, Expected((), {}))).set()
    (note,) = check_head_node(site)
    assert f"{RUN} was begun here" in note, "its collection may go on"
    # Where its record is lost there are still the copies of its configs.
    (data_dir / RUN / RUN_JSON).write_text("")
    site_for(data_dir / RUN, data_dir)
    (note,) = check_head_node(site)
    assert f"{RUN} was begun here" in note


def test_a_run_of_another_head_node_is_no_sign_of_this_one(tmp_path: Path) -> None:
    """As where both see one data directory over the network."""
    data_dir, other = tmp_path / "data", tmp_path / "other"
    site = away_from(tmp_path / "site", data_dir)
    site_for(data_dir / RUN, data_dir, "192.0.2.8")
    claim(data_dir, new_holder(RUN, tmp_path, other))
    holder = read_holder(data_dir)
    assert holder is not None
    RunRecord(data_dir / RUN, new_document(holder, (), {}, Expected((), {}))).set()
    with pytest.raises(RefusedError, match="192.0.2.7"):
        check_head_node(site)


def test_high_voltage_is_switched_off_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    site = away_from(tmp_path / "site", tmp_path / "data")
    told: list[Site] = []
    monkeypatch.setattr(off_first, "high_voltage_off", lambda work: told.append(work.site))
    assert off_first.switch_off(site.command_dir, Console(), ["--hv_off"]) == []
    assert [one.daq for one in told] == [site.daq]
    assert "192.0.2.7" in capsys.readouterr().err
    assert not (tmp_path / "data").exists(), "no data directory is made on a wrong computer"


def test_status_says_that_the_head_node_has_another_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    site = away_from(tmp_path / "site", tmp_path / "data")
    monkeypatch.chdir(site.command_dir)
    assert status.main(["--log"]) == 0
    assert "192.0.2.7" in capsys.readouterr().err
