"""What boards, networks and clocks do wrong: every fault is counted, every frame is right.

Every recording ends with `received = recorded + rejected + duplicate + late (+ unwritten)`, which
Recorder.stop() checks for the whole and for each stream.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from simulator.faults import MALFORMED_KINDS, Spoil
from tests.helpers import wait_for
from tests.pipeline import (
    Boards,
    Recorder,
    boards,
    build,
    packet,
    packet_source,
    preload,
    recording,
    skip_if_dropped,
)
from tests.spoiled_streams import (
    ALL_FAULTS,
    IMG8,
    IMG16,
    PH256,
    PH1024,
    TAI_NS,
    Acquisition,
    Stream,
    spoil_check,
)

PRODUCTS = {2: "img16", 6: "img8", 1: "ph1024"}
SECOND_NS = 10**9
MS = 10**6


@pytest.fixture(scope="module", autouse=True)
def built() -> None:
    build()


# ---- spoiled streams: each fault counted exactly ----


@pytest.mark.parametrize("sanitizer", ["", "address", "thread"])
def test_everything_wrong_at_once(tmp_path: Path, sanitizer: str) -> None:
    streams = [Stream(7, ALL_FAULTS, 700), Stream(254, ALL_FAULTS, 700)]
    spoil_check(tmp_path, streams, sanitizer, "udp")


def test_everything_wrong_at_once_by_packet_capture(tmp_path: Path) -> None:
    if os.geteuid():
        pytest.skip("packet capture needs root")
    streams = [Stream(7, ALL_FAULTS, 700), Stream(254, ALL_FAULTS, 700)]
    spoil_check(tmp_path, streams, "", "packet")


def lossy(loss: float, seed: int) -> list[Stream]:
    """One module at 1 ms, one at 10 ms.

    A packet may come as late as 250 ms: at 10 ms fewer than 64 others can overtake it.  Two kinds
    of malformed packets each, since the pipeline tells 64 senders and kinds apart.
    """

    def spoil(depth: int, first_kind: int) -> Spoil:
        return Spoil(
            loss=loss, duplicate=0.02, reorder=0.03, malformed=0.02, depth=depth,
            kinds=MALFORMED_KINDS[first_kind::2], seed=seed, late_pps_ns=5000 * seed,
        )  # fmt: skip

    first = round(loss * 1000)
    return [Stream(first, spoil(64, 0), 2000), Stream(first + 128, spoil(8, 1), 200, 10 * MS)]


def test_every_loss_at_1_and_10_ms(tmp_path: Path) -> None:
    streams = [stream for loss in (0.001, 0.01, 0.05) for stream in lossy(loss, 1)]
    spoil_check(tmp_path, streams, "", "udp")


@pytest.mark.parametrize("acquisition", [IMG8, PH256, PH1024], ids=lambda found: found.product)
def test_other_products_spoiled(tmp_path: Path, acquisition: Acquisition) -> None:
    streams = [replace(stream, frames=stream.frames // 2) for stream in lossy(0.05, 2)]
    spoil_check(tmp_path, streams, "", "udp", acquisition)


@pytest.mark.long
@pytest.mark.parametrize("sanitizer", ["", "address", "thread"])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("loss", [0.001, 0.01, 0.05])
@pytest.mark.parametrize(
    "acquisition", [IMG16, IMG8, PH256, PH1024], ids=lambda found: found.product
)
def test_spoiled_streams(
    tmp_path: Path, sanitizer: str, seed: int, loss: float, acquisition: Acquisition
) -> None:
    capture = "udp" if seed % 2 or os.geteuid() else "packet"
    spoil_check(tmp_path, lossy(loss, seed), sanitizer, capture, acquisition)


@pytest.mark.parametrize("sanitizer", ["address", "thread"])
def test_sanitizers_flat_out(tmp_path: Path, sanitizer: str) -> None:
    """As fast as it can be sent, to a pipeline that is slow: rings full, drops, bad packets."""
    frames = 3000
    few = {"NETBLKS": 4, "OUTBLKS": 4, "RCVMB": 1}
    with (
        recording(tmp_path, (7, 254), few, sanitizer=sanitizer) as recorder,
        packet_source() as source,
    ):
        for module in (7, 254):
            source.add_module(recorder, module)
        for address in source.address.values():
            source.tell(f"spoil {address} {ALL_FAULTS.words()}")
            source.tell(
                f"image {address} dest={recorder.destination} acq=2 period_ns=20000"
                f" frames={frames} flood=1"
            )
        accounts = [account["image"] for account in source.done(8).values()]
        totals = recorder.stop()["totals"]
    sent = sum(
        account["sent"] + account["duplicated"] + sum(account["malformed"].values())
        for account in accounts
    )
    assert totals["received"] + totals["kernel_drops"] == sent
    assert totals["recorded"] > 0 and totals["unwritten"] == 0


# ---- times and numbers ----


@dataclass(frozen=True)
class Sent:
    """One packet as a board stamps it."""

    quabo: int
    number: int
    tai: int
    nsec: int

    @property
    def fill(self) -> int:
        """What all its pixels are."""
        return (4 * self.number + self.quabo) % 251


@dataclass(frozen=True)
class Moment:
    """When four boards see the same; number: of the packet each of them sends."""

    time_ns: int
    number: int
    silent: tuple[int, ...] = ()
    late_pulse: tuple[int, ...] = ()  # boards whose second has not begun yet
    reset: tuple[tuple[int, int], ...] = ()  # boards with another number

    def packets(self) -> Iterator[Sent]:
        """Boards in an order that changes, a few nanoseconds apart."""
        for k in range(4):
            quabo = (self.number + k) % 4
            if quabo in self.silent:
                continue
            second, nsec = divmod(self.time_ns + 5 * quabo, SECOND_NS)
            if quabo in self.late_pulse:
                second, nsec = second - 1, nsec + SECOND_NS
            number = dict(self.reset).get(quabo, self.number) % 65536
            yield Sent(quabo, number, second % 1024, nsec)


def moments(n: int, begin_ns: int = 100 * SECOND_NS, number: int = 0) -> list[Moment]:
    """In step, a millisecond apart, nothing wrong."""
    return [Moment((begin_ns + k * MS) % TAI_NS, number + k) for k in range(n)]


def after_step(step_ns: int) -> list[Moment]:
    """The boards' clock is set after the tenth."""
    begin_ns = 100 * SECOND_NS
    return moments(10) + moments(10, begin_ns + 10 * MS + step_ns, 10)


def without(quabo: int, found: list[Moment]) -> list[Moment]:
    """The same, a board silent."""
    return [replace(moment, silent=(quabo,)) for moment in found]


def late_pulse(begin_ns: int) -> list[Moment]:
    """At the tenth a second begins, which two of the boards do not know yet."""
    found = moments(20, begin_ns - 10 * MS)
    found[10] = Moment(found[10].time_ns, 10, late_pulse=(0, 2))
    return found


CASES = {
    "in step": moments(20),
    "second boundary": moments(20, 6 * SECOND_NS - 10 * MS - 8),
    "TAI wrap": moments(20, TAI_NS - 10 * MS - 8),
    "late pulse": late_pulse(6 * SECOND_NS + 20),
    "late pulse at the wrap": late_pulse(TAI_NS + 20),
    "numbers wrap": moments(20, number=65526),
    "numbers reset": moments(10, number=5000) + moments(10, 100 * SECOND_NS + 10 * MS),
    "numbers reset from high": moments(10, number=40000) + moments(10, 100 * SECOND_NS + 10 * MS),
    "numbers of one reset": moments(10, number=5000)
    + [
        Moment(moment.time_ns, moment.number, reset=((2, moment.number - 5010),))
        for moment in moments(10, 100 * SECOND_NS + 10 * MS, 5010)
    ],
    "clock forward": after_step(40 * SECOND_NS),
    "clock back": after_step(-40 * SECOND_NS),
    "clock back a little": after_step(-3 * MS - 500_000),
    "clock forward, a quabo silent": without(3, after_step(40 * SECOND_NS)),
    "clock back, a quabo silent": without(3, after_step(-40 * SECOND_NS)),
    "quabo falls silent": moments(10) + without(3, moments(20)[10:]),
    "quabo comes late": without(1, moments(10))
    + [Moment(m.time_ns, m.number, reset=((1, k),)) for k, m in enumerate(moments(20)[10:])],
    "module falls silent": moments(3),
    "module is silent": [],
}
RESETS = {
    "numbers reset": {0, 1, 2, 3},
    "numbers reset from high": {0, 1, 2, 3},
    "numbers of one reset": {2},
}


def test_times_and_numbers(tmp_path: Path) -> None:
    """Every case as images of 16 and 8 bits and as grouped pulse height, each a module."""
    plan = {
        module: (mode, name)
        for module, (mode, name) in enumerate((m, n) for m in PRODUCTS for n in CASES)
    }
    with (
        recording(tmp_path, tuple(plan), {"GROUPPHFRAMES": 1}) as recorder,
        boards(recorder) as senders,
    ):
        for step in range(max(map(len, CASES.values()))):
            for module, (mode, name) in plan.items():
                for moment in CASES[name][step : step + 1]:
                    send(senders, module, mode, moment)
        status = recorder.stop()
        skip_if_dropped(status)
        entries = {(e["module"], e["quabo"]): e for e in status["quabos"]}
        for module, (mode, name) in plan.items():
            check_frames(recorder, module, PRODUCTS[mode], CASES[name])
            packets = [sent for moment in CASES[name] for sent in moment.packets()]
            for quabo in range(4):
                n = sum(sent.quabo == quabo for sent in packets)
                assert ((module, quabo) in entries) == (n > 0), name
                if n:
                    entry = entries[module, quabo]
                    assert (entry["received"], entry["recorded"]) == (n, n), name
                    assert entry["lost"] == entry["duplicate"] == entry["late"] == 0, name
                    assert entry["resets"] == (quabo in RESETS.get(name, ())), name
        sent = sum(len(list(m.packets())) for _, name in plan.values() for m in CASES[name])
        assert status["totals"]["recorded"] == sent


def send(senders: Boards, module: int, mode: int, moment: Moment) -> None:
    """What the boards of a module send at a moment."""
    for sent in moment.packets():
        boardloc = 4 * module + sent.quabo
        data = packet(mode, boardloc, sent.number, sent.tai, sent.nsec, sent.fill)
        senders.send(data, boardloc)


def check_frames(recorder: Recorder, module: int, product: str, case: list[Moment]) -> None:
    """A frame for each moment, in their order, with what every board said."""
    frames = recorder.frames(module, product)
    assert len(frames) == len(case)
    for frame, moment in zip(frames, case, strict=True):
        sent = {packet.quabo: packet for packet in moment.packets()}
        assert {
            quabo: (board["pkt_num"], board["pkt_tai"], board["pkt_nsec"])
            for quabo, board in frame.boards.items()
        } == {q: (p.number, p.tai, min(p.nsec, 999_999_999)) for q, p in sorted(sent.items())}
        for quabo, (rows, columns) in QUADRANTS.items():
            fill = sent[quabo].fill if quabo in sent else 0
            assert (frame.pixels[rows, columns] == fill).all()
    others = [other for other in PRODUCTS.values() if other != product]
    assert all(not recorder.frames(module, other) for other in others)


# Where the boards of a module are in its image.
QUADRANTS = {
    0: (slice(0, 16), slice(0, 16)),
    1: (slice(0, 16), slice(16, 32)),
    2: (slice(16, 32), slice(16, 32)),
    3: (slice(16, 32), slice(0, 16)),
}


# ---- the computer's clock ----

CLOCK_STEPS = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
/* Seconds that the clock is wrong, read anew each time. */
static long wrong_s(void)
{
	FILE *file = fopen(getenv("CLOCK_FILE"), "re");
	long seconds = 0;

	if (file && fscanf(file, "%ld", &seconds) != 1)
		seconds = 0;
	if (file)
		fclose(file);
	return seconds;
}
int clock_gettime(clockid_t clock, struct timespec *now)
{
	int (*real)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime");
	int result = real(clock, now);

	if (clock == CLOCK_REALTIME)
		now->tv_sec += wrong_s();
	return result;
}
int recvmmsg(int fd, struct mmsghdr *messages, unsigned n, int flags, struct timespec *timeout)
{
	int (*real)(int, struct mmsghdr *, unsigned, int, struct timespec *) =
		dlsym(RTLD_NEXT, "recvmmsg");
	int got = real(fd, messages, n, flags, timeout);
	long seconds = wrong_s();

	for (int k = 0; k < got; k++) {
		struct msghdr *message = &messages[k].msg_hdr;
		struct cmsghdr *at;

		for (at = CMSG_FIRSTHDR(message); at; at = CMSG_NXTHDR(message, at))
			if (at->cmsg_level == SOL_SOCKET && at->cmsg_type == SCM_TIMESTAMPNS)
				((struct timespec *)CMSG_DATA(at))->tv_sec += seconds;
	}
	return got;
}
"""


@pytest.mark.parametrize(
    ("step_s", "period_us"), [(3600, 2000), (-3600, 2000), (3600, 100), (-8000, 100)]
)
def test_the_computers_clock_is_set(tmp_path: Path, step_s: int, period_us: int) -> None:
    """Recording goes on as if nothing had been; only the time of receipt tells of it."""
    clock = tmp_path / "clock"
    clock.write_text("0")
    environment = {"LD_PRELOAD": preload(tmp_path, CLOCK_STEPS), "CLOCK_FILE": str(clock)}
    with (
        recording(tmp_path, (7, 254), environment=environment) as recorder,
        boards(recorder) as senders,
        packet_source() as source,
    ):
        source.add_module(recorder, 254)
        what = f"dest={recorder.destination} acq=2 period_ns={period_us}000"
        for address in source.address.values():
            source.tell(f"image {address} {what}")
        wait_for(lambda: recorder.status()["totals"]["recorded"] > 400, "frames before")
        senders.send(packet(1, 28, 0), 28)  # and nothing more
        silent_since = time.monotonic()
        clock.with_suffix(".new").write_text(str(step_s))
        os.replace(clock.with_suffix(".new"), clock)
        before = recorder.status()["totals"]["recorded"]
        wait_for(lambda: recorder.status()["totals"]["recorded"] > before + 500, "frames after")
        sent = 1 + sum(source.stop(boardloc)["image"]["sent"] for boardloc in source.address)
        age_s = time.monotonic() - silent_since
        status = recorder.stop()
        skip_if_dropped(status)
        frames = recorder.frames(254, "img16")
    # A frame that was in the making at the step may be torn, no other.
    totals = status["totals"]
    assert totals["recorded"] + totals["late"] == sent
    assert totals["late"] <= 3 and totals["lost"] == 0
    numbers = [[f.numbers[quabo] for f in frames if quabo in f.boards] for quabo in range(4)]
    assert all(found == sorted(found) for found in numbers)
    assert sum(max(found) + 1 - len(set(found)) for found in numbers) <= totals["late"]
    whole = [k for k, frame in enumerate(frames) if len(frame.boards) == 4]
    assert whole[-1] - whole[0] + 1 - len(whole) <= 2
    seconds = np.array([board["tv_sec"] for f in frames for board in f.boards.values()])
    assert abs(seconds[-1] - seconds[0] - step_s) < 60
    assert abs(seconds[-1] - step_s - time.time()) < 60
    silent, *others = status["quabos"]
    assert age_s <= silent["last_packet_age_s"] < age_s + 60 and silent["longest_gap_s"] == 0
    assert all(stream["last_packet_age_s"] < 60 for stream in others)
    assert all(period_us * 1e-6 <= stream["longest_gap_s"] < 10 for stream in others)


@pytest.mark.parametrize("step_s", [3600, -3600])
def test_frames_wait_as_long_after_the_clock_was_set(tmp_path: Path, step_s: int) -> None:
    """For a board that is late, and not for ever: by a clock that is never set."""
    clock = tmp_path / "clock"
    clock.write_text("0")
    environment = {"LD_PRELOAD": preload(tmp_path, CLOCK_STEPS), "CLOCK_FILE": str(clock)}
    with (
        recording(tmp_path, options={"CAPTURE": "udp"}, environment=environment) as recorder,
        boards(recorder) as senders,
    ):
        (path,) = recorder.files(254, "img16")

        def send_board(quabo: int, number: int) -> None:
            senders.send(packet(2, 1016 + quabo, number, 5, number * MS), 1016 + quabo)

        def wait_for_frame(number: int) -> int:
            wait_for(lambda: path.stat().st_size == 2540 * (number + 1), f"frame {number}")
            return len(recorder.frames(254, "img16")[number].boards)

        for quabo in range(4):
            send_board(quabo, 0)
        assert wait_for_frame(0) == 4
        clock.with_suffix(".new").write_text(str(step_s))
        os.replace(clock.with_suffix(".new"), clock)
        # A computer with much else to do may be later than a frame waits, but not every time.
        for number in range(1, 11):
            send_board(0, number)
            time.sleep(0.07)  # more than it takes to look after frames, less than one waits
            for quabo in range(1, 4):
                send_board(quabo, number)
            if wait_for_frame(number) == 4:
                break
        else:
            pytest.fail("no frame has waited for its boards")
        send_board(0, number + 1)
        assert wait_for_frame(number + 1) == 1
        recorder.stop()
