"""The record store against a real redis-server."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from panoseti.housekeeping.store import BootNote, Store, StoreError, boot_key
from tests.helpers import free_port
from tests.redis_server import PrivateRedis, private_redis


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateRedis]:
    with private_redis(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture
def store(server: PrivateRedis) -> Iterator[Store]:
    with redis.Redis(port=server.port) as plain:
        plain.flushall()
    with Store(server.host, server.port) as opened:
        yield opened


def test_values_come_back_in_the_text_form_of_hk_pff(store: Store) -> None:
    fields: dict[str, str | int | float] = {
        "Computer_UTC": 1720000000.25,
        "BOARDLOC": 1016,
        "HVMON2": -55.74179999999999,
        "HVMON3": 5.2959e-06,
        "UID": "0x0706a64120829088",
        "empty": "",
    }
    store.put_record("QUABO_1016", fields)
    record = store.get_record("QUABO_1016")
    assert record == {name: str(value) for name, value in fields.items()}
    assert list(record) == list(fields)
    assert [float(record["HVMON2"]), float(record["HVMON3"])] == [-55.74179999999999, 5.2959e-06]


@pytest.mark.parametrize("value", [True, None, b"1", [1]])
def test_a_value_that_is_neither_text_nor_number_is_a_bug(store: Store, value: object) -> None:
    with pytest.raises(TypeError, match="field POWER: .* is neither text nor number"):
        store.put_record("WPS", {"POWER": value})  # type: ignore[dict-item]
    assert store.get_record("WPS") == {}


def test_an_absent_record_is_empty(store: Store) -> None:
    assert store.get_record("QUABO_4") == {}
    assert store.get_records(["QUABO_4", "QUABO_5"]) == {}
    assert store.records() == {}
    store.delete("QUABO_4")


def test_some_fields_of_records(server: PrivateRedis, store: Store) -> None:
    store.put_records([("QUABO_4", {"BOARDLOC": 4, "TEMP1": 20.5, "TEMP2": ""}), ("WPS", {"A": 1})])
    with redis.Redis(port=server.port) as plain:
        plain.set("QUABO_5", "no hash")
    keys = ["QUABO_4", "QUABO_6", "WPS"]
    wanted = store.get_records(keys, fields=["TEMP1", "TEMP2", "HVMON0"])
    assert wanted == {"QUABO_4": {"TEMP1": "20.5", "TEMP2": ""}}
    with pytest.raises(StoreError, match="refused"):
        store.get_records(["QUABO_5"], fields=["TEMP1"])


def test_records_are_all_hashes_and_only_hashes(server: PrivateRedis, store: Store) -> None:
    with redis.Redis(port=server.port) as plain:
        plain.set("not_a_record", "1")
        plain.hset("odd", mapping={b"caf\xe9": b"\xff"})
    store.put_records([("WPS", {"POWER": "ON"}), ("QUABO_4", {"BOARDLOC": 4})])
    records = store.records()
    assert list(records) == ["QUABO_4", "WPS", "odd"]
    assert records["odd"] == {"caf\\xe9": "\\xff"}
    store.delete("QUABO_4", "odd")
    assert store.records() == {"WPS": {"POWER": "ON"}}


def test_only_changed_records_with_a_time_are_transferred(store: Store) -> None:
    store.put_records(
        [
            ("QUABO_4", {"Computer_UTC": 10.5, "TEMP1": 20}),
            ("QUABO_5", {"Computer_UTC": 11.0, "TEMP1": 21}),
            (boot_key(4), {"BootUTC": 9.0}),
        ]
    )
    first = store.changed_records({})
    assert list(first) == ["QUABO_4", "QUABO_5"]
    seen = {key: record["Computer_UTC"] for key, record in first.items()}
    store.put_record("QUABO_5", {"Computer_UTC": 12.0, "TEMP1": 22})
    assert store.changed_records(seen) == {"QUABO_5": {"Computer_UTC": "12.0", "TEMP1": "22"}}


def test_a_record_and_many_records_cost_one_request(server: PrivateRedis, store: Store) -> None:
    fields = {f"field{n}": n for n in range(40)}
    store.put_record("QUABO_1", fields)  # connects
    with redis.Redis(port=server.port) as counter:

        def reads() -> int:
            stats = counter.info("stats")
            assert isinstance(stats, dict)
            return int(stats["total_reads_processed"])

        one_look = -(reads() - reads())
        before = reads()
        store.put_record("QUABO_1", fields)
        assert reads() - before - one_look == 1
        before = reads()
        store.put_records([(f"QUABO_{n}", {"BOARDLOC": n}) for n in range(20)])
        assert reads() - before - one_look == 1


def test_the_boot_note(store: Store) -> None:
    assert store.boot_note(1016) is None
    store.put_record(boot_key(1016), {"BootUTC": 12.25, "FWVER": "0208", "FWTIME": "0x28b4667a"})
    note = store.boot_note(1016)
    assert note is not None
    assert (note.utc_s, note.firmware_version, note.firmware_time) == (12.25, "0208", "0x28b4667a")
    store.put_record(boot_key(1016), {"BootUTC": "yesterday"})
    with pytest.raises(StoreError, match=r"BOOT_1016 holds .* DEL BOOT_1016"):
        store.boot_note(1016)


def test_a_boot_that_was_found_out_is_noted_unless_it_is_known(store: Store) -> None:
    store.put_record("QUABO_1016", {"FWVER": "0208", "FWTIME": "0x28b4667a"})
    assert store.infer_boot(1016, 100.0, 103.0)
    assert store.boot_note(1016) == BootNote(103.0, "0208", "0x28b4667a")
    store.put_record(boot_key(1016), {"BootUTC": 200.5, "FWVER": "0210", "FWTIME": "0x29"})
    assert not store.infer_boot(1016, 200.0, 203.0), "its boot packet has come"
    assert store.boot_note(1016) == BootNote(200.5, "0210", "0x29")
    assert store.infer_boot(1016, 201.0, 204.0), "another boot"
    assert not store.infer_boot(1016, 190.0, 193.0), "the same by another clock"
    assert store.infer_boot(1016, 100.0, 103.0), "another boot, the clock having been set back"
    note = store.boot_note(1016)
    assert note is not None and note.utc_s == 103.0


def test_a_foreign_key_of_the_same_name_is_refused_by_name(
    server: PrivateRedis, store: Store
) -> None:
    with redis.Redis(port=server.port) as plain:
        plain.set("QUABO_7", "text")
    with pytest.raises(StoreError, match=rf"redis 127.0.0.1:{server.port} refused .*WRONGTYPE"):
        store.put_record("QUABO_7", {"BOARDLOC": 7})


def test_no_redis_is_one_line_with_host_port_and_remedy() -> None:
    port = free_port()
    with Store("127.0.0.1", port) as store:
        for request in (store.ping, store.records, lambda: store.put_record("A", {"b": 1})):
            with pytest.raises(
                StoreError, match=rf"redis 127\.0\.0\.1:{port} is not reachable .*redis_port"
            ) as failure:
                request()
            assert "\n" not in str(failure.value)


def test_the_store_is_usable_again_after_a_restart(tmp_path: Path) -> None:
    with private_redis(tmp_path) as server, Store(server.host, server.port) as store:
        store.put_record("WPS", {"POWER": "ON"})
        server.kill()
        with pytest.raises(StoreError):
            store.ping()
        server.start()
        store.put_record("WPS", {"POWER": "OFF"})
        assert store.records() == {"WPS": {"POWER": "OFF"}}


def test_a_restart_between_two_requests_is_not_noticed(tmp_path: Path) -> None:
    with private_redis(tmp_path) as server, Store(server.host, server.port) as store:
        store.put_record("WPS", {"POWER": "ON"})
        server.kill()
        server.start()
        store.put_record("WPS", {"POWER": "OFF"})


def test_a_frozen_redis_is_given_up_soon(tmp_path: Path) -> None:
    with private_redis(tmp_path) as server, Store(server.host, server.port, 0.2) as store:
        store.ping()
        with server.frozen():
            begin = time.monotonic()
            with pytest.raises(StoreError, match="does not answer in time"):
                store.put_record("WPS", {"POWER": "ON"})
            assert time.monotonic() - begin < 2
        store.put_record("WPS", {"POWER": "ON"})
