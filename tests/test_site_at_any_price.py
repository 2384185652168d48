"""The site for commands that must get through: other configs by now, a dead name server."""

from __future__ import annotations

from pathlib import Path

import pytest

from panoseti.configs.load_configs import load_site
from panoseti.configs.site_at_any_price import check_head_node, find_site
from panoseti.errors import ConfigError, RefusedError
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
    with pytest.raises(RefusedError, match="head.invalid.*type it there"):
        check_head_node(site)
    data_dir.mkdir()
    (note,) = check_head_node(site)
    assert "head.invalid" in note and str(data_dir) in note
    here = load_site(site_for(tmp_path / "other", data_dir), data_config=False)
    assert check_head_node(here) == []
    elsewhere = load_site(site_for(tmp_path / "third", data_dir, "192.0.2.7"), data_config=False)
    with pytest.raises(RefusedError, match="192.0.2.7"):
        check_head_node(elsewhere)
