"""What may be left out of a run, by run_policy.may_be_missing: counts, names, words."""

from __future__ import annotations

from pathlib import Path

import pytest

from panoseti.configs.load_configs import Site, load_site
from panoseti.errors import ObsError, RefusedError
from panoseti.runs.run_part import Part, boards_left_out, left_out, never_asked
from tests.site_files import DAQ, OBS, changed, write_site

NODE1, NODE2 = "192.168.1.101", "192.168.1.102"
# Modules 1 and 3 on the first node, 254 on the second.
SECOND = {"mobo_serialno": "M3", "quabo_version": "qfp", "ip_addr": "192.168.0.12"}
MODULE_1 = [f"192.168.0.{last}" for last in (4, 5, 6, 7)]
MODULE_254 = [f"192.168.3.{last}" for last in (248, 249, 250, 251)]


def part_of(folder: Path, partial: bool = True, **allowed: int) -> tuple[Site, Part]:
    obs = changed(OBS, {("domes", 0, "modules", 2): SECOND})
    policy = {"may_be_missing": allowed}
    site = load_site(write_site(folder, {**obs, "run_policy": policy}, DAQ))
    return site, Part(site, site.obs.quabos, site.nodes_in_use(), partial)


def test_all_of_it(tmp_path: Path) -> None:
    site, part = part_of(tmp_path)
    assert part.leave_out() == () and part.leave_out({}, {}) == ()
    assert part.boards == site.obs.quabos and part.missing == {}
    assert {n.ip_addr: part.modules_of(n) for n in part.nodes} == {NODE1: (1, 3), NODE2: (254,)}
    expected = part.expected(True)
    assert len(expected.quabos) == 12 and expected.missing == {}
    assert part.expected(False).quabos == ()


def test_boards_modules_and_nodes_are_counted_apart(tmp_path: Path) -> None:
    site, part = part_of(tmp_path, boards=1, modules=1, nodes=1)
    (gone,) = part.leave_out({MODULE_1[0]: f"{MODULE_1[0]}: no answer"})
    assert gone.ip == MODULE_1[0] and part.missing == {MODULE_1[0]: "no answer"}
    gone_too = part.leave_out(dict.fromkeys(MODULE_1, "no answer"))
    assert [board.ip for board in gone_too] == MODULE_1[1:]
    assert part.missing == {"module 1": "no answer"}, "a whole module counts as one"
    node2 = site.nodes_in_use()[1]
    part.leave_out({MODULE_254[0]: "x"}, {node2: f"{NODE2}: is dead"})
    assert part.missing == {NODE2: "is dead", "module 1": "no answer"}
    assert {n.ip_addr: part.modules_of(n) for n in part.nodes} == {NODE1: (3,)}
    assert boards_left_out(site, part.missing) == {*MODULE_1, *MODULE_254}
    document = {"expected": {"missing": part.missing}, "steps": [{"what": "record"}]}
    assert left_out(document) == never_asked(document) == part.missing
    document["steps"].append({"what": "record", "subject": NODE2})  # type: ignore[attr-defined]
    assert set(never_asked(document)) == {"module 1"}
    with pytest.raises(ObsError, match="nothing would be left to record"):
        part.leave_out(nodes=dict.fromkeys(site.nodes_in_use(), "dead"))
    assert set(part.missing) == {NODE2, "module 1"}, "what was refused is not left out"


def test_more_than_the_policy_allows(tmp_path: Path) -> None:
    site, part = part_of(tmp_path, boards=1)
    with pytest.raises(RefusedError) as refused:
        part.leave_out(dict.fromkeys(MODULE_1[:2], "no answer"), error=RefusedError)
    assert str(refused.value) == (
        "no answer; no answer; run_policy.may_be_missing in obs_config.json allows 1 board to be"
        " missing; now 2 boards would"
    )
    with pytest.raises(ObsError, match="allows 1 board to be missing; now 1 module would"):
        part.leave_out(dict.fromkeys(MODULE_1, "no answer"))
    with pytest.raises(ObsError, match="all of it; .*; now 1 node would"):
        part.leave_out(nodes={site.nodes_in_use()[0]: "dead"}, problem="all of it")
    assert part.missing == {}


def test_without_partial_it_is_named_where_it_would_help(tmp_path: Path) -> None:
    _, part = part_of(tmp_path / "a", partial=False, boards=1)
    with pytest.raises(ObsError, match="^mute; start.py --partial records without it$"):
        part.leave_out({MODULE_1[0]: "mute"})
    with pytest.raises(ObsError, match="^mute; mute$"):
        part.leave_out(dict.fromkeys(MODULE_1[:2], "mute"))
    _, part = part_of(tmp_path / "b", partial=False)
    with pytest.raises(ObsError, match="^mute$"):
        part.leave_out({MODULE_1[0]: "mute"})
