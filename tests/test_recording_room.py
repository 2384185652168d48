"""How long there is room to record: each module counts where its data go, whatever is linked."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from panoseti.configs import settings
from panoseti.configs.load_configs import Site, load_site
from panoseti.nodes.node_documents import node_status
from panoseti.nodes.node_types import NodeStatus
from panoseti.runs.recording_room import Room, rooms
from tests import node_dir
from tests.site_files import DATA, OBS, write_site

MODULES = "1,254"
SHARED_MEMORY = Path("/dev/shm")  # a file system of its own everywhere


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Path]:
    """A folder on another file system than the data directory."""
    if SHARED_MEMORY.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is only one file system")
    found = Path(tempfile.mkdtemp(dir=SHARED_MEMORY))
    yield found
    shutil.rmtree(found)


@pytest.fixture
def node(tmp_path: Path) -> node_dir.NodeDir:
    return node_dir.NodeDir(tmp_path / "node data", node_dir.ENDS_AT_SIGINT)


def site_of(folder: Path, place: node_dir.NodeDir, head: str, head_dir: Path) -> Site:
    head_dir.mkdir(exist_ok=True)
    node = {
        "ip_addr": "127.0.0.1", "username": "observer", "data_dir": str(place.path),
        "module_ids": MODULES,
    }  # fmt: skip
    daq = {
        "head_node_ip_addr": head,
        "head_node_data_dir": str(head_dir),
        "daq_nodes": [node],
    }
    return load_site(write_site(folder, OBS, daq, DATA))


def asked(node: node_dir.NodeDir) -> NodeStatus:
    return node_status(node.status(), 0.0, 0.0)


def by_modules(site: Site, node: node_dir.NodeDir) -> dict[tuple[int, ...], Room]:
    """Rooms of the node, by the modules that are recorded there; all that is used."""
    found = rooms(site, {site.daq.nodes[0]: asked(node)})
    assert found[0].node is None
    return {room.modules: room for room in found[1:] if room.modules}


def test_a_module_on_another_disk_is_counted_there(
    tmp_path: Path, node: node_dir.NodeDir, volume: Path
) -> None:
    site = site_of(tmp_path / "site", node, "127.0.0.2", tmp_path / "head data")
    rate = settings.data_rate_bytes_s(site.data)
    (one,) = by_modules(site, node).items()
    assert one[0] == (1, 254) and one[1].rate_bytes_s == 2 * rate
    (node.path / "module_1").symlink_to(volume)
    (node.path / "module_254").mkdir()
    found = by_modules(site, node)
    assert set(found) == {(1,), (254,)}
    assert all(room.rate_bytes_s == rate for room in found.values())
    assert found[1,].where == f"127.0.0.1:{volume}"
    assert found[254,].where == f"127.0.0.1:{node.path}"
    assert found[1,].free_bytes == pytest.approx(shutil.disk_usage(volume).free, rel=0.2)
    head = rooms(site, {site.daq.nodes[0]: asked(node)})[0]
    hk = settings.HK_BYTES_S * 2
    assert head.rate_bytes_s == hk + 2 * rate, "all is collected there"


def test_a_link_to_a_disk_that_is_not_there_has_no_room(
    tmp_path: Path, node: node_dir.NodeDir
) -> None:
    site = site_of(tmp_path / "site", node, "127.0.0.2", tmp_path / "head data")
    (node.path / "module_254").symlink_to("/not/mounted")
    status = asked(node)
    assert list(status.unusable) == [254] and "a link to /not/mounted" in status.unusable[254]
    assert status.unusable[254] in status.problems
    assert set(by_modules(site, node)) == {(1,)}, "not on the disk of the other module"


def test_what_lies_on_the_head_nodes_disk_is_counted_once(
    tmp_path: Path, node: node_dir.NodeDir, volume: Path
) -> None:
    """The node is the head node; one of its modules records on another disk."""
    site = site_of(tmp_path / "site", node, "127.0.0.1", node.path)
    rate = settings.data_rate_bytes_s(site.data)
    (node.path / "module_254").symlink_to(volume)
    head, *others = rooms(site, {site.daq.nodes[0]: asked(node)})
    assert head.modules == (1,) and [room.modules for room in others] == [(254,)]
    assert head.rate_bytes_s == settings.HK_BYTES_S * 2 + 2 * rate
    assert others[0].rate_bytes_s == rate
