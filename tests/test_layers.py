"""Who may import what: the layers of the code, read from its syntax.

The packages of panoseti/ say what a module is about; its layer says what it may touch.  A new
module in panoseti/ or simulator/ must be entered into LAYERS or SIMULATOR below, in the lowest
layer that fits: a module imports from its own layer and those before it, never in a ring.
"""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers import REPO

# --- the tables ---

LAYERS: dict[str, str] = {
    # Values and bytes: no file, socket, clock, process or output.
    "facts": """
        addresses board_plans capabilities command_forms commands config_words cross_checks
        disk_room errors firmware_images hk_trust hv_currents hv_off hv_ramp json_document
        json_formats known_hosts ledger maroc names node_documents node_types node_watch packets
        pff ph_compare ph_silence pixel_maps pixel_masks quabo_config run_watch science_packets
        selection settings site site_builder threshold_fit threshold_proposal watch_facts words
    """,
    # What lies on this computer: files, locks, processes, its names and its terminal.
    "local": """
        activities alarms background board_files collect_progress console daemon firmware_marks
        flight hv_asked hv_off_asked hv_trips interrupts launch ledger_file load_configs local_host
        poller port_lock power_credentials run_snapshot software state_files stop_in_background
        supervision touched venv watch_log word_streams
    """,
    # One file for each way to other computers.
    "links": """
        board_link board_tftp hk_socket power_switch reach remote rsync_fetch science_socket
        ssh_argv store
    """,
    # What the scripts and daemons are made of.
    "services": """
        begin_recording board_settings board_setup board_work boot bring_up calibration_report
        collect collect_batch config_request config_run config_tasks control_turn daemon_inputs
        daq_nodes data_arrival data_flow device_tasks end_recording file_checks firmware
        firmware_load frame_crew hk_coverage hk_watch housekeeping hv hv_service hv_witness
        interlock lost_record lost_runs mechanics node_init node_setup observatory_status off_first
        outlets overview ph_baselines power qc_commands qc_session qc_shell readiness recording_room
        rehearsal reset_notes run_account run_copies run_finish run_gaps run_order run_owner
        run_part run_record run_report run_restarts run_start run_state run_stop run_summary
        run_timer run_verdict run_watcher safety safety_status session session_end session_setup
        site_at_any_price site_of_run start_checks status_advice status_gathering status_report
        threshold_measure threshold_scan verified
    """,
}
SIMULATOR: dict[str, str] = {
    # The simulated boards know the protocol and nothing of the programs that talk to them.
    "facts": """
        __main__ board client control faults flash make_boards monitor options power_switch
        response server sites sky source station tftp_server
    """,
    # A whole observatory around them, driven as an operator would.
    "services": """
        bench_bringup leftovers night private_observatory private_services private_sshd site_writer
        standing
    """,
}

# Modules (with all below them) that may be used in these places alone.
RESERVED: dict[str, set[str]] = {
    "socket": {"board_link", "hk_socket", "remote", "local_host", "flight"},
    "socketserver": set(),
    "asyncio": set(),
    "selectors": set(),
    "ssl": set(),
    "http": {"power_switch"},
    "urllib": {"power_switch"},
    "ftplib": set(),
    "smtplib": set(),
    "paramiko": {"remote"},
    "redis": {"store"},
    "tftpy": {"board_tftp"},
    "rich": {"console"},
    "jsonschema": {"json_document", "json_formats"},
    "subprocess": {
        "alarms",
        "frame_crew",
        "launch",
        "reach",
        "rsync_fetch",
        "software",
        "stop_in_background",
    },
    "multiprocessing": set(),
}
THIRD_PARTY = {"paramiko", "redis", "tftpy", "rich", "jsonschema", "psutil"}
TOOLS_MAY_USE = {"numpy", "matplotlib"}

# Facts may have no state of the world.  time and datetime convert; reading the clock is a call.
NOT_IN_FACTS = {
    "os", "io", "shutil", "tempfile", "glob", "fcntl", "select", "signal", "threading", "queue",
    "concurrent", "random", "secrets", "getpass", "pwd", "platform", "psutil", "logging", "sys",
}  # fmt: skip
READS_FILES = {"json_document"}  # its read_document is the one door of all JSON files
CLOCK_CALLS = {
    "time.time", "time.time_ns", "time.monotonic", "time.monotonic_ns", "time.perf_counter",
    "time.sleep", "datetime.datetime.now", "datetime.datetime.utcnow", "datetime.datetime.today",
    "datetime.date.today",
}  # fmt: skip
IO_CALLS = {"open", "print", "input", "exec", "eval"}

STANDARD = sys.stdlib_module_names
SCRIPT_LINES, DAEMON_LINES = 130, 100
# Python 3.8 has not these modules, nor these methods of str, Path, and of modules.
SINCE_39_MODULES = {"graphlib", "zoneinfo", "tomllib"}
SINCE_39_NAMES = {
    "removeprefix", "removesuffix", "is_relative_to", "with_stem", "hardlink_to", "bit_count",
    "pairwise", "batched", "cache", "to_thread", "randbytes", "UTC", "StrEnum",
    "waitstatus_to_exitcode",
}  # fmt: skip
BUILTIN_TYPES = {
    "list", "dict", "tuple", "set", "frozenset", "type", "int", "str", "bytes", "float", "bool",
}  # fmt: skip

# Places of one computer, not of the program.
MACHINE_PLACES = (str(REPO), f"{Path.home()}/")


# --- reading the code ---


def sources(folder: str) -> list[Path]:
    """Python files of a top folder ("" = the scripts); of panoseti/ those of its packages too."""
    inner = "**/*.py" if folder == "panoseti" else "*.py"
    return sorted((REPO / folder).glob(inner))


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports anywhere in it, as "panoseti.configs.site" or "socket"."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{where(path, node)}: relative import"
            folder = REPO / (node.module or "").replace(".", "/")
            if folder.is_dir():
                yield from (f"{node.module}.{alias.name}" for alias in node.names)
            else:
                yield node.module or ""


def where(path: Path, node: ast.AST | None = None) -> str:
    """A file of the repository, with the line of a node."""
    line = f":{node.lineno}" if node is not None and hasattr(node, "lineno") else ""
    return f"{path.relative_to(REPO)}{line}"


def named(node: ast.AST) -> str:
    """ "time.sleep" for an attribute or a name, "" for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{named(node.value)}.{node.attr}"
    return ""


def layer_of(table: dict[str, str]) -> dict[str, int]:
    """Module -> number of its layer in LAYERS."""
    order = list(LAYERS)
    return {name: order.index(layer) for layer, names in table.items() for name in names.split()}


PANOSETI = layer_of(LAYERS)
SIMULATED = layer_of(SIMULATOR)


def check(problems: list[str]) -> None:
    assert not problems, "\n" + "\n".join(problems)


# --- the rules ---


@pytest.mark.parametrize(
    ("folder", "table", "name"),
    [("panoseti", LAYERS, "LAYERS"), ("simulator", SIMULATOR, "SIMULATOR")],
)
def test_every_module_is_in_a_layer(folder: str, table: dict[str, str], name: str) -> None:
    listed = " ".join(table.values()).split()
    assert len(listed) == len(set(listed)), f"{name} of {__file__} lists a module twice"
    there = {path.stem for path in sources(folder)} - {"__init__"}
    for module in sorted(there - set(listed)):
        pytest.fail(f"{folder}/{module}.py is in no layer: enter it into {name} of {__file__}")
    for module in sorted(set(listed) - there):
        pytest.fail(f"{folder}/{module}.py is no more: take it out of {name} of {__file__}")


def test_imports_of_panoseti_go_down() -> None:
    problems = []
    order = list(LAYERS)
    for path in sources("panoseti"):
        if path.stem == "__init__":
            assert not list(imports(path)), f"{where(path)} must import nothing"
        if path.stem not in PANOSETI:
            continue  # another test tells
        for name in imports(path):
            package, module = name.partition(".")[0], name.rpartition(".")[2]
            if package == "panoseti":
                if PANOSETI.get(module, 0) > PANOSETI[path.stem]:
                    problems.append(
                        f"{where(path)} ({order[PANOSETI[path.stem]]}) imports {module}"
                        f" ({order[PANOSETI[module]]}): imports go down only"
                    )
            elif package == "daq":
                if module != "daq_facts":
                    problems.append(f"{where(path)} imports {name}: only daq.daq_facts is shared")
            elif package not in STANDARD | THIRD_PARTY:
                problems.append(f"{where(path)} imports {name}: not among {sorted(THIRD_PARTY)}")
    check(problems)


@pytest.mark.parametrize("folder", ["panoseti", "simulator", "daq"])
def test_no_ring_of_imports(folder: str) -> None:
    graph = {
        path.stem: {name.rpartition(".")[2] for name in imports(path) if folder in name.split(".")}
        for path in sources(folder)
    }
    own = {name: used & graph.keys() for name, used in graph.items()}
    try:
        graphlib.TopologicalSorter(own).prepare()
    except graphlib.CycleError as error:
        pytest.fail(f"{folder}: {' -> '.join(error.args[1])}")


def test_what_only_some_modules_may_use() -> None:
    problems = []
    for path in sources("panoseti"):
        for name in imports(path):
            allowed = RESERVED.get(name.partition(".")[0])
            if allowed is not None and path.stem not in allowed:
                users = ", ".join(sorted(allowed)) or "nobody"
                problems.append(f"{where(path)} imports {name}, which is for {users}")
    check(problems)


def test_facts_touch_nothing() -> None:
    problems = []
    for path in sources("panoseti"):
        if path.stem not in LAYERS["facts"].split():
            continue
        for name in imports(path):
            top = name.partition(".")[0]
            if top in NOT_IN_FACTS or (top in RESERVED and path.stem not in RESERVED[top]):
                problems.append(f"{where(path)} imports {name}: no fact")
            if top == "pathlib" and path.stem not in READS_FILES:
                problems.append(f"{where(path)} imports {name}: facts know no files")
        for node in ast.walk(parsed(path)):
            called = named(node.func) if isinstance(node, ast.Call) else ""
            if called in CLOCK_CALLS or called in IO_CALLS:
                problems.append(f"{where(path, node)} calls {called}: facts do not")
            if isinstance(node, ast.ImportFrom) and node.module in ("time", "datetime"):
                problems.append(f"{where(path, node)}: write {node.module}.x, which can be seen")
    check(problems)


def test_scripts_are_words_over_panoseti() -> None:
    assert sources(""), "no script found"
    problems = []
    for path in sources(""):
        lines = len(path.read_text().splitlines())
        if lines > SCRIPT_LINES:
            problems.append(f"{where(path)} has {lines} lines (at most {SCRIPT_LINES})")
        problems += foreign(path, {"panoseti"})
    check(problems)


def test_daemons_are_thin() -> None:
    problems = []
    for path in sources("daemons"):
        lines = len(path.read_text().splitlines())
        if lines > DAEMON_LINES:
            problems.append(f"{where(path)} has {lines} lines (at most {DAEMON_LINES})")
        problems += foreign(path, {"panoseti", "daq"})
    check(problems)


def test_tools_use_panoseti_and_what_they_require() -> None:
    allowed = {"panoseti", "tools", *TOOLS_MAY_USE}
    check([p for path in sources("tools") for p in foreign(path, allowed)])


def foreign(path: Path, allowed: set[str]) -> list[str]:
    """What a file imports besides the standard library and some packages, or of the reserved."""
    problems = []
    for name in imports(path):
        top = name.partition(".")[0]
        if top in allowed:
            continue
        if top not in STANDARD or top in RESERVED:
            problems.append(f"{where(path)} imports {name}: it is for modules of panoseti/")
    return problems


def test_the_simulated_boards_know_the_protocol_alone() -> None:
    problems = []
    for path in sources("simulator"):
        if path.stem == "__init__":
            continue
        for name in imports(path):
            package, module = name.partition(".")[0], name.rpartition(".")[2]
            boards_only = SIMULATED.get(path.stem) == 0
            if package == "panoseti":
                if boards_only and PANOSETI.get(module, 99) > 0:
                    problems.append(f"{where(path)} imports {name}: boards know facts alone")
            elif package == "simulator":
                if boards_only and SIMULATED.get(module, 99) > 0:
                    problems.append(f"{where(path)} imports {name}: boards know no site")
            elif package == "tools":
                if boards_only:
                    problems.append(f"{where(path)} imports {name}: boards make no pictures")
            elif boards_only and package not in STANDARD:
                problems.append(f"{where(path)} imports {name}: standard library only")
    check(problems)


def test_nothing_of_the_product_imports_tests_simulator_or_scripts() -> None:
    scripts = {path.stem for path in sources("")}
    problems = []
    for folder in ("", "panoseti", "daemons", "daq", "simulator", "tools"):
        for path in sources(folder):
            for name in imports(path):
                top = name.partition(".")[0]
                outside = top == "simulator" and folder != "simulator"
                if top == "tests" or outside or top in scripts or (top == "daemons"):
                    problems.append(f"{where(path)} imports {name}")
    check(problems)


# --- the helpers on DAQ nodes ---


def daq_sources() -> list[Path]:
    found = sources("daq")
    assert found, "no helper found"
    return found


def test_daq_helpers_need_the_standard_library_of_python_3_8_alone() -> None:
    siblings = {path.stem for path in daq_sources()}
    problems = [f"daq/{name}.py hides a standard module" for name in siblings & STANDARD]
    for path in daq_sources():
        for name in imports(path):
            top = name.partition(".")[0]
            if top in siblings:
                continue
            if top not in STANDARD or top in SINCE_39_MODULES:
                problems.append(f"{where(path)} imports {name}: not in Python 3.8's library")
    check(problems)


def unevaluated(tree: ast.Module) -> set[int]:
    """ids of all nodes inside annotations: they are never evaluated."""
    roots: list[ast.AST | None] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.arg | ast.AnnAssign):
            roots.append(node.annotation)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            roots.append(node.returns)
    return {id(inner) for root in roots if root is not None for inner in ast.walk(root)}


def test_daq_helpers_run_on_python_3_8() -> None:
    problems = []
    for path in daq_sources():
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text, str(path), feature_version=(3, 8))
        if "from __future__ import annotations" not in text:
            problems.append(f"{where(path)}: needs from __future__ import annotations")
        skip = unevaluated(tree)
        for node in ast.walk(tree):
            if id(node) not in skip:
                problems += [f"{where(path, node)}: {what}" for what in newer_than_3_8(node)]
    check(problems)


def newer_than_3_8(node: ast.AST) -> Iterator[str]:
    """What of a node Python 3.8 would stumble over although its syntax is right."""
    if isinstance(node, ast.Attribute) and node.attr in SINCE_39_NAMES:
        yield f"{node.attr} came with Python 3.9 or later"
    if isinstance(node, ast.Subscript) and named(node.value) in BUILTIN_TYPES:
        yield f"{named(node.value)}[...] outside annotations came with Python 3.9"
    if isinstance(node, ast.Subscript) and named(node.value).startswith("collections.abc."):
        yield "collections.abc types take [...] since Python 3.9"
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        sides = (node.left, node.right)
        if any(isinstance(side, ast.Dict) or named(side) in BUILTIN_TYPES for side in sides):
            yield "| between types or dicts came with Python 3.9 or later"
    if isinstance(node, ast.Call):
        given = {keyword.arg for keyword in node.keywords}
        if named(node.func) == "zip" and "strict" in given:
            yield "zip(strict=) came with Python 3.10"
        if named(node.func).endswith("dataclass") and given & {"slots", "kw_only"}:
            yield "dataclass(slots=, kw_only=) came with Python 3.10"
        if named(node.func).endswith("ArgumentParser") and "exit_on_error" in given:
            yield "ArgumentParser(exit_on_error=) came with Python 3.9"


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("x.removeprefix('a')", 1),
        ("A = dict[str, int]", 1),
        ("isinstance(x, int | str)", 1),
        ("y = {1: 2} | z", 1),
        ("zip(a, b, strict=True)", 1),
        ("def f(a: dict[str, int] | None) -> list[int]: ...", 0),
        ("x = a | b", 0),
        ("x[0]", 0),
    ],
)
def test_the_check_for_python_3_8_sees(code: str, found: int) -> None:
    tree = ast.parse(code)
    skip = unevaluated(tree)
    seen = [
        what for node in ast.walk(tree) if id(node) not in skip for what in newer_than_3_8(node)
    ]
    assert len(seen) == found


# --- all files ---


def test_no_file_names_a_place_of_one_computer() -> None:
    if not (REPO / ".git").exists():
        pytest.skip("not a checkout: what belongs to the program is not known")
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPO, check=True, capture_output=True, timeout=30,
    )  # fmt: skip
    names = [name for name in listing.stdout.decode().split("\0") if name]
    problems = []
    for name in names:
        path = REPO / name
        text = path.read_bytes() if path.is_file() else b""
        problems += [f"{name} names {place}" for place in MACHINE_PLACES if place.encode() in text]
    check(problems)
