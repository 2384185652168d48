"""The web power switch, real client against simulated switch."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from panoseti.power_switch import PowerSwitch, PowerSwitchError, masked_url
from simulator.power_switch import PowerSwitchServer
from tests.helpers import REPO, free_port

PASSWORD = "s3cret/p@ss"


@pytest.fixture
def server() -> Iterator[PowerSwitchServer]:
    with PowerSwitchServer(password="1234", on=[1, 8]) as running:
        yield running


@pytest.fixture
def switch(server: PowerSwitchServer) -> PowerSwitch:
    return PowerSwitch("wps", server.url, timeout_s=2)


def test_states_of_all_outlets(switch: PowerSwitch) -> None:
    assert switch.states() == {n: n in (1, 8) for n in range(1, 9)}
    assert switch.is_on(8) and not switch.is_on(2)


def test_switching_one_outlet_leaves_the_others(
    server: PowerSwitchServer, switch: PowerSwitch
) -> None:
    switch.switch(3, on=True)
    assert server.outlets_on == {1, 3, 8}
    switch.switch(1, on=False)
    assert server.outlets_on == {3, 8}
    switch.switch(1, on=False)
    assert server.outlets_on == {3, 8}
    assert [path for path in server.requests if path.startswith("/outlet")] == [
        "/outlet?3=ON",
        "/outlet?1=OFF",
        "/outlet?1=OFF",
    ]


@pytest.mark.parametrize("outlet", [0, 9, -1])
def test_an_outlet_that_is_not_there_is_a_bug(switch: PowerSwitch, outlet: int) -> None:
    with pytest.raises(ValueError, match=f"outlet {outlet} is outside 1..8"):
        switch.switch(outlet, on=False)
    with pytest.raises(ValueError, match="is outside 1..8"):
        switch.is_on(outlet)


def test_an_outlet_that_does_not_switch_is_named(
    server: PowerSwitchServer, switch: PowerSwitch
) -> None:
    server.fault = "stuck"
    with pytest.raises(PowerSwitchError, match=r"outlet 8 was told OFF but is still ON"):
        switch.switch(8, on=False, settle_s=0.1)


def test_a_switch_that_never_answers_is_given_up(server: PowerSwitchServer) -> None:
    server.fault = "silent"
    begin = time.monotonic()
    with pytest.raises(PowerSwitchError, match="no answer to /status.*timed out"):
        PowerSwitch("wps", server.url, timeout_s=0.2).states()
    assert time.monotonic() - begin < 2


def test_a_page_without_the_state_is_no_state(
    server: PowerSwitchServer, switch: PowerSwitch
) -> None:
    server.fault = "garbled"
    with pytest.raises(PowerSwitchError, match="its /status page has no state"):
        switch.is_on(1)


def test_nobody_there() -> None:
    port = free_port()
    with pytest.raises(PowerSwitchError, match=r"\*\*\*@127.0.0.1.*check its address and cable"):
        PowerSwitch("wps_a", f"http://admin:{'pw'}@127.0.0.1:{port}").states()


def test_the_password_reaches_the_switch_but_no_message() -> None:
    with PowerSwitchServer(user="observer", password=PASSWORD) as server:
        url = f"http://observer:s3cret%2Fp%40ss@{server.address}"
        right = PowerSwitch("wps_b", url)
        assert right.is_on(1)
        assert "s3cret" not in right.shown and "observer" not in right.shown
        wrong = PowerSwitch("wps_b", f"http://observer:s3cret@{server.address}")
        with pytest.raises(PowerSwitchError) as failure:
            wrong.switch(1, on=False)
        assert server.outlets_on == set(range(1, 9))
    text = str(failure.value)
    assert "s3cret" not in text and "observer" not in text
    assert re.search(r"power switch wps_b \(http://\*\*\*@.*401.*wps_b.url", text)


def test_a_redirection_does_not_carry_the_password_away(
    server: PowerSwitchServer, switch: PowerSwitch
) -> None:
    with PowerSwitchServer() as elsewhere:
        server.redirect_to = f"http://{elsewhere.address}"
        with pytest.raises(PowerSwitchError, match="/status was answered 302"):
            switch.states()
        assert elsewhere.requests == []


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://admin:1234@10.0.1.5", "http://***@10.0.1.5"),
        ("http://admin@10.0.1.5:8080/x", "http://***@10.0.1.5:8080/x"),
        ("http://admin:a@b@10.0.1.5", "http://***@10.0.1.5"),
        ("http://10.0.1.5", "http://10.0.1.5"),
        ("http://admin:1234@[", "***"),
    ],
)
def test_masked_url(url: str, shown: str) -> None:
    assert masked_url(url) == shown


@pytest.mark.parametrize("url", ["", "10.0.1.5", "ftp://a:b@10.0.1.5", "http://u:pw@", "http://["])
def test_not_a_url(url: str) -> None:
    with pytest.raises(PowerSwitchError, match=r"wps_c.*correct wps_c.url") as failure:
        PowerSwitch("wps_c", url)
    assert "pw" not in str(failure.value)


def test_the_environment_s_proxy_is_not_used(
    server: PowerSwitchServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    monkeypatch.delenv("no_proxy", raising=False)
    assert PowerSwitch("wps", server.url).is_on(1)


def test_the_simulated_switch_as_a_program() -> None:
    command = [sys.executable, "-m", "simulator.power_switch", "--on", "2"]
    with subprocess.Popen(command, cwd=REPO, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().split()[1]
            PowerSwitch("wps", url).switch(2, on=False)
            assert process.stdout.readline() == "outlet 2 OFF\n"
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 0
        finally:
            process.kill()
