"""A record for a run whose own was lost, from what else lies in its directory.

The frozen configs say which nodes record what; the list of boards, frozen too, which were present.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from panoseti.configs.board_files import QUABO_UIDS, read_quabo_uids
from panoseti.configs.load_configs import Site, load_site
from panoseti.configs.site import Quabo
from panoseti.errors import ConfigError
from panoseti.runs.run_part import Part
from panoseti.runs.run_record import LOST, Expected, new_document
from panoseti.runs.run_state import Holder


def rebuilt_document(folder: Path, why: str) -> dict[str, Any]:
    """The record of the run in `folder`, as far as it can be told; why: what became of its own.

    All that could record is expected: what start.py --partial left out shows as missing.
    """
    document = new_document(Holder(folder.name), (), {}, expected_of(folder))
    document[LOST] = why
    return document


def expected_of(folder: Path) -> Expected:
    """What the run in `folder` was to record by its frozen files; nothing where there are none."""
    try:
        site = load_site(folder, data_config=False)
    except ConfigError:
        return Expected((), {})
    boards = _present(folder, site)
    nodes = {site.node_of(board.module_id) for board in boards}
    in_order = [node for node in site.nodes_in_use() if node in nodes]
    return Part(site, boards, in_order, partial=False).expected(science=True)


def _present(folder: Path, site: Site) -> list[Quabo]:
    """The boards that were present; all of them where that is not known."""
    for place in (folder, site.head_data_dir):
        try:
            uids = read_quabo_uids(place / QUABO_UIDS, site.obs)
        except ConfigError:
            continue
        return [quabo for quabo in site.obs.quabos if uids.present(quabo.ip)]
    return list(site.obs.quabos)
