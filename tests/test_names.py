"""Names of runs and data files: those of the deployed software, and nothing dangerous."""

from __future__ import annotations

import ast
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daq import daq_facts
from panoseti.runs import names
from panoseti.runs.pff import PRODUCTS
from tests.helpers import REPO, golden

NAMES = golden("names")
RUN = "obs_Lick.start_2024-07-25T04:34:06Z.runtype_sci-data.pffd"


@pytest.mark.parametrize("case", NAMES["run_dirs"], ids=lambda case: case["name"])
def test_names_of_runs(case: dict[str, Any]) -> None:
    name = names.run_dir_name(case["obs"], case["run_type"], case["unix_time"])
    assert name == case["name"]
    assert names.parse_run_name(name) == names.RunName(
        case["obs"], int(case["unix_time"]), case["run_type"]
    )


@pytest.mark.parametrize("case", NAMES["files"], ids=lambda case: case["file"])
def test_names_of_data_files(case: dict[str, Any]) -> None:
    file = names.parse_data_file(case["file"])
    assert file is not None
    parsed = case["parsed"]
    assert (file.product, str(file.bytes_per_pixel)) == (case["type"], parsed["bpp"])
    assert (str(file.module), str(file.seqno)) == (parsed["module"], parsed["seqno"])
    again = names.data_file_name(file.start_unix, file.product, file.module, file.seqno)
    assert again == case["file"]


letters = st.sampled_from("ABCXYZabcxyz0189")
obs_names = st.text(st.one_of(letters, st.sampled_from("_-")), min_size=0, max_size=10)
run_types = st.text(st.one_of(letters, st.just("-")), min_size=0, max_size=10)
seconds = st.integers(0, 4_000_000_000)


@given(letters, obs_names, letters, run_types, seconds, st.floats(0, 0.999))
def test_run_names_come_back(
    first: str, obs: str, first_type: str, run_type: str, unix_s: int, fraction: float
) -> None:
    name = names.run_dir_name(first + obs, first_type + run_type, unix_s + fraction)
    assert len(name) <= 67
    assert names.parse_run_name(name) == names.RunName(first + obs, unix_s, first_type + run_type)


@given(seconds, st.sampled_from(sorted(PRODUCTS)), st.integers(0, 255), st.integers(0, 999_999_999))
def test_file_names_come_back(start: int, product: str, module: int, seqno: int) -> None:
    name = names.data_file_name(start + 0.7, product, module, seqno)
    assert names.parse_data_file(name) == names.DataFile(
        start, product, PRODUCTS[product].bytes_per_pixel, module, seqno
    )


def test_22_characters_of_name_and_type_are_the_most() -> None:
    name = names.run_dir_name("A" * 14, "b" * 8, 0)
    assert len(name) == 67
    assert names.check_run_name(name) == name
    with pytest.raises(ValueError, match="68 characters.*67"):
        names.run_dir_name("A" * 15, "b" * 8, 0)


@pytest.mark.parametrize(
    "text",
    [
        "", ".", "..", "/", RUN + "/", "/" + RUN, "../" + RUN, RUN + "\n", "\n" + RUN, RUN + "x",
        RUN.replace("Lick", ""), RUN.replace("Lick", "Li.ck"), RUN.replace("Lick", "Li/ck"),
        RUN.replace("Lick", ".."), RUN.replace("Lick", "-rf"), RUN.replace("Lick", "a b"),
        RUN.replace("Lick", "Lick*"), RUN.replace("Lick", "$HOME"), RUN.replace("Lick", "Líck"),
        RUN.replace("sci-data", ""), RUN.replace("sci-data", "a_b"),
        RUN.replace("sci-data", "../x"), RUN.replace("2024", "٢٠٢٤"), RUN.replace("Z", ""),
        RUN.replace("04:34:06", "04:34:06.5"), RUN.replace(".pffd", ".pff"),
        RUN.replace("obs_", ""), RUN.replace("\0", "") + "\0",
    ],
    ids=ascii,
)  # fmt: skip
def test_only_the_full_pattern_is_a_run_name(text: str) -> None:
    with pytest.raises(ValueError, match="not the name of a run"):
        names.check_run_name(text)
    with pytest.raises(ValueError, match="not the name of a run"):
        names.parse_run_name(text)


@given(st.text(max_size=80))
def test_what_passes_is_one_plain_path_component(text: str) -> None:
    try:
        names.check_run_name(text)
    except ValueError:
        return
    assert "/" not in text
    assert text not in ("", ".", "..")


def test_a_time_that_does_not_exist_is_refused_when_it_is_asked_for() -> None:
    with pytest.raises(ValueError, match="2024-13-25T04:34:06Z is no time"):
        names.parse_run_name(RUN.replace("-07-", "-13-"))


FILE = "start_2024-07-25T04:34:46Z.dp_img16.bpp_2.module_1.seqno_0.pff"


@pytest.mark.parametrize(
    "text",
    [
        "hk.pff", "", FILE + "~", FILE + "\n", "x" + FILE, FILE.replace("img16", "img32"),
        FILE.replace("bpp_2", "bpp_1"), FILE.replace("module_1", "module_256"),
        FILE.replace("module_1", "module_01"), FILE.replace("seqno_0", "seqno_00"),
        FILE.replace("seqno_0", "seqno_-1"), FILE.replace("-07-", "-19-"),
        FILE.replace("dp_img16.bpp_2", "bpp_2.dp_img16"), FILE.replace(".pff", ".pff.tmp"),
    ],
)  # fmt: skip
def test_what_is_no_data_file_is_none(text: str) -> None:
    assert names.parse_data_file(FILE) is not None
    assert names.parse_data_file(text) is None


def test_the_facts_shared_with_nodes_need_the_standard_library_alone() -> None:
    tree = ast.parse((REPO / "daq" / "daq_facts.py").read_text())
    imported = {
        name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
        )
    }
    assert imported <= sys.stdlib_module_names
    assert daq_facts.RUN_NAME is names.RUN_NAME
