"""TFTP service of a quabo: flash UID, flash memory, reboot.

Every call takes the board's address and TFTP port, is bounded in time whatever the board does,
and raises BoardError naming board, file and remedy.  Many boards go side by side in threads
(`on_boards`): a transfer is mostly waiting.
"""

from __future__ import annotations

import logging
import struct
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from io import BytesIO
from typing import Any, TypeVar

import tftpy
from tftpy.TftpPacketTypes import TftpPacketDAT, TftpPacketERR

from panoseti.boards import packets
from panoseti.boards.addresses import TFTP_PORT
from panoseti.boards.firmware_images import FLASH_BYTES, GOLDEN_END, SECTOR_BYTES, SILVER_ADDRESS
from panoseti.configs.site import CommandPacing
from panoseti.errors import BoardError, ObsError
from panoseti.flight import FlightRecorder

UID_BYTES = 8
READ_BYTES = 0x8000  # a request takes at most 0xffff; the deployed software asks for so many
BOARDS_AT_ONCE = CommandPacing.transfers_at_once
BLOCK_BYTES = 512

Progress = Callable[[int], None]
"""Told how many bytes have been transferred."""
T = TypeVar("T")


@dataclass(frozen=True)
class Patience:
    """How long a board may be silent before a packet is repeated, how often one is sent, and
    how long the whole transfer may take.
    """

    silence_s: float
    tries: int
    total_s: float


QUICK = Patience(silence_s=0.5, tries=4, total_s=5.0)
READ = Patience(silence_s=1.0, tries=4, total_s=60.0)
# A flash sector is erased on the way: about a second of silence.  8 MiB are 16384 blocks.
WRITE = Patience(silence_s=3.0, tries=5, total_s=1800.0)

# What malformed datagrams make the library raise, beside its own errors.
_GARBAGE = (struct.error, AssertionError, UnicodeDecodeError)


class _EnoughError(Exception):
    """Raised in the library's packet hook: there is nothing more to wait for."""


class _TooLongError(Exception):
    """Raised in the library's packet hook: the whole transfer has taken too long."""


def get_uid(
    ip: str,
    port: int = TFTP_PORT,
    patience: Patience = QUICK,
    flight: FlightRecorder | None = None,
) -> str:
    """UID of the board's flash chip, as in quabo_info.json."""
    if flight is not None:
        flight.note("tftp_get", board=ip, file="/flashuid")
    data = _read(ip, port, "/flashuid", patience)
    if len(data) != UID_BYTES:
        raise BoardError(f"{ip}: /flashuid has {len(data)} bytes instead of {UID_BYTES}; ask again")
    return packets.uid_text(data)


def read_flash(
    ip: str,
    address: int,
    length: int,
    port: int = TFTP_PORT,
    progress: Progress | None = None,
    patience: Patience = READ,
    flight: FlightRecorder | None = None,
) -> bytes:
    """`length` bytes of flash memory from `address`; `patience` is for each 32 KiB of it."""
    _check_range(ip, address, length)
    if flight is not None:
        flight.note("tftp_get", board=ip, file=f"/flash.{address:x}.{length:x}")
    data = b""
    while len(data) < length:
        count = min(READ_BYTES, length - len(data))
        name = f"/flash.{address + len(data):x}.{count:x}"
        chunk = _read(ip, port, name, patience)
        if len(chunk) != count:
            raise BoardError(f"{ip}: {name} has {len(chunk)} bytes instead of {count}; ask again")
        data += chunk
        if progress is not None:
            progress(len(data))
    return data


def write_flash(
    ip: str,
    address: int,
    data: bytes,
    port: int = TFTP_PORT,
    progress: Progress | None = None,
    patience: Patience = WRITE,
    flight: FlightRecorder | None = None,
    golden_too: bool = False,
) -> None:
    """Program flash memory; sectors are erased on the way.

    Refused: an address that begins no sector, data that goes beyond the end, and, unless
    `golden_too`, the golden firmware that a board needs to come up at all.
    """
    _check_range(ip, address, len(data))
    if address % SECTOR_BYTES:
        raise BoardError(f"{ip}: flash address {address:#x} begins no sector of {SECTOR_BYTES:#x}")
    if address < GOLDEN_END and not golden_too:
        raise BoardError(f"{ip}: flash address {address:#x} is the golden firmware; not written")
    name = f"/flash.{address:x}"
    if flight is not None:
        flight.note("tftp_put", board=ip, file=name, bytes=len(data))

    def hook(packet: Any) -> None:
        if progress is not None and isinstance(packet, TftpPacketDAT):
            progress(min(len(data), (packet.blocknumber - 1) * BLOCK_BYTES + len(packet.data)))

    _transfer(ip, port, name, patience, data, hook)


def reboot(
    ip: str,
    port: int = TFTP_PORT,
    flash_address: int = SILVER_ADDRESS,
    flight: FlightRecorder | None = None,
    patience: Patience = QUICK,
) -> None:
    """Have the FPGA load the firmware at `flash_address`, about 1 s from now.

    Returns when the order was sent (twice: boards never acknowledge it); whether the board
    reboots is seen by its silence and its first HK packet.
    """
    order = (flash_address >> 8).to_bytes(4, "big")
    if flight is not None:
        flight.note("tftp_put", board=ip, file="/progdev", hex=order.hex())
    sent = 0

    def hook(packet: Any) -> None:
        nonlocal sent
        if isinstance(packet, TftpPacketDAT):
            sent += 1
            if sent == 2:
                raise _EnoughError

    try:
        _transfer(ip, port, "/progdev", patience, order, hook)
    except _EnoughError:
        pass


def on_boards(
    ips: Iterable[str],
    action: Callable[[str], T],
    progress: Callable[[str], None] | None = None,
    at_once: int = BOARDS_AT_ONCE,
    interrupted: Callable[[], object] = lambda: None,
) -> dict[str, T | ObsError]:
    """What `action` gives for each board, or the ObsError it raised; in the order given.

    progress: called with a board's address when it is done; interrupted: called when this is
    ended early (Ctrl-C), before the actions under way are waited for: it may tell them to end.
    """
    found: dict[str, T | ObsError] = {}
    order = list(ips)
    with ThreadPoolExecutor(max_workers=max(1, min(at_once, len(order)))) as pool:
        running = {pool.submit(action, ip): ip for ip in order}
        try:
            for future in as_completed(running):
                ip = running[future]
                try:
                    found[ip] = future.result()
                except ObsError as error:
                    found[ip] = error
                if progress is not None:
                    progress(ip)
        except BaseException:
            interrupted()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    return {ip: found[ip] for ip in order}


def _check_range(ip: str, address: int, length: int) -> None:
    if address < 0 or length < 0 or address + length > FLASH_BYTES:
        raise BoardError(
            f"{ip}: flash {address:#x} with {length} bytes is outside 0..{FLASH_BYTES:#x}"
        )


def _read(ip: str, port: int, name: str, patience: Patience) -> bytes:
    return _transfer(ip, port, name, patience, None, lambda packet: None)


def _transfer(
    ip: str,
    port: int,
    name: str,
    patience: Patience,
    data: bytes | None,
    hook: Callable[[Any], None],
) -> bytes:
    """Put `data` as file `name`, or get the file when it is None.

    hook: sees each packet that comes, and each block that goes.
    """
    logging.getLogger("tftpy").setLevel(logging.CRITICAL + 1)  # our errors say it all
    deadline = time.monotonic() + patience.total_s
    refusal = ""

    def watch(packet: Any) -> None:
        nonlocal refusal
        if isinstance(packet, TftpPacketERR):
            refusal = (packet.errmsg or b"").decode("latin-1") or f"error {packet.errorcode}"
        # The library counts silences alone: without this a trickle of packets has no end.
        if time.monotonic() > deadline:
            raise _TooLongError
        hook(packet)

    # Locks are for files on disk, which these are not.
    client = tftpy.TftpClient(ip, port, options={}, flock=False)
    content = BytesIO(data or b"")
    move = client.download if data is None else client.upload
    try:
        move(
            name,
            content,
            packethook=watch,
            timeout=patience.silence_s,
            retries=patience.tries,
        )
    except (tftpy.TftpTimeout, _TooLongError) as error:
        spent_s = patience.total_s + time.monotonic() - deadline
        raise BoardError(
            f"{ip}: TFTP {name}: no answer (given up after {spent_s:.1f} s); is it powered and"
            " booted? Try: config.py --ping"
        ) from error
    except tftpy.TftpException as error:
        raise BoardError(f"{ip}: TFTP {name}: refused: {refusal or error}") from error
    except OSError as error:
        raise BoardError(
            f"{ip}: TFTP {name}: {error.strerror}; check the network of this machine"
        ) from error
    except _GARBAGE as error:
        raise BoardError(f"{ip}: TFTP {name}: malformed answer ({error}); ask again") from error
    return content.getvalue() if data is None else b""  # after an upload it is closed
