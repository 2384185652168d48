"""The web power switch, real client against simulated switch: classic, REST, logins."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from panoseti.boards import power_switch
from panoseti.boards.power_switch import (
    PowerSwitch,
    PowerSwitchError,
    digest_authorization,
    masked_url,
    open_switch,
)
from panoseti.configs.load_configs import frozen_copies, load_site
from panoseti.configs.power_credentials import CredentialsError, Login, read_login
from panoseti.flight import FlightRecorder
from panoseti.high_voltage.hv_service import Outlets
from simulator.power_switch import PowerSwitchServer
from tests.helpers import REPO, free_port, wait_for
from tests.site_files import OBS, changed, write_site

PASSWORD = "s3cret/p@ss"


@pytest.fixture(params=["classic", "rest", "rest+digest", "classic+digest"])
def server(request: pytest.FixtureRequest) -> Iterator[PowerSwitchServer]:
    kind = request.param
    with PowerSwitchServer(
        password="1234", on=[1, 8], rest="rest" in kind, digest="digest" in kind
    ) as running:
        yield running


@pytest.fixture
def classic() -> Iterator[PowerSwitchServer]:
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
    rest = "/restapi/relay/outlets/{}/state/ value={}"
    assert [r for r in server.requests if r.startswith(("/outlet", "PUT"))] == (
        [f"PUT {rest.format(n, v)}" for n, v in ((2, "true"), (0, "false"), (0, "false"))]
        if server.rest
        else ["/outlet?3=ON", "/outlet?1=OFF", "/outlet?1=OFF"]
    )


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
    for api in ("auto", "rest", "classic"):
        with pytest.raises(PowerSwitchError, match="no answer to /(status|restapi).*timed out"):
            PowerSwitch("wps", server.url, timeout_s=0.1, api=api).states()
    assert time.monotonic() - begin < 2


def test_a_page_without_the_state_is_no_state(
    server: PowerSwitchServer, switch: PowerSwitch
) -> None:
    server.fault = "garbled"
    with pytest.raises(PowerSwitchError, match="its /status page has no state"):
        switch.is_on(1)
    with pytest.raises(PowerSwitchError, match=r"neither true nor false|404 Not Found"):
        PowerSwitch("wps", server.url, api="rest").is_on(1)


def test_which_way_it_has_is_asked_once_or_said(server: PowerSwitchServer) -> None:
    found = PowerSwitch("wps", server.url)
    found.states()
    asked = len(server.requests)
    found.is_on(8)
    assert len(server.requests) == asked + 1
    server.requests.clear()
    said = PowerSwitch("wps", server.url, api="classic")
    said.switch(2, on=True)
    assert not any("restapi" in request for request in server.requests)
    assert server.outlets_on == {1, 2, 8}


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
    assert re.search(r"power switch wps_b \(http://\*\*\*@.*401.*power_credentials", text)


def test_a_wrong_password_is_refused_whatever_the_way(server: PowerSwitchServer) -> None:
    login = Login("admin", "s3cret")
    assert "s3cret" not in repr(login)
    with pytest.raises(PowerSwitchError, match="401.*correct its user and password") as failure:
        PowerSwitch("wps", f"http://{server.address}", login=login).switch(1, on=False)
    assert "s3cret" not in str(failure.value) and server.outlets_on == {1, 8}


def test_a_redirection_does_not_carry_the_password_away(
    server: PowerSwitchServer, switch: PowerSwitch
) -> None:
    with PowerSwitchServer() as elsewhere:
        server.redirect_to = f"http://{elsewhere.address}"
        with pytest.raises(PowerSwitchError, match="/status was answered 302"):
            switch.states()
        with pytest.raises(PowerSwitchError, match="physical_state/ was answered 302"):
            PowerSwitch("wps", server.url, api="rest").states()
        assert elsewhere.requests == []


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://admin:1234@10.0.1.5", "http://***@10.0.1.5"),
        ("http://admin@10.0.1.5:8080/x", "http://***@10.0.1.5:8080/x"),
        ("http://admin:a@b@10.0.1.5", "http://***@10.0.1.5"),
        ("http://10.0.1.5", "http://10.0.1.5"),
        ("http://admin:1234@[", "http://***@["),
        ("http://admin:12/34@10.0.1.5", "http://***@10.0.1.5"),
        ("http://admin:12?34@10.0.1.5/x", "http://***@10.0.1.5/x"),
        ("http://admin:12#34@10.0.1.5", "http://***@10.0.1.5"),
    ],
)
def test_masked_url(url: str, shown: str) -> None:
    assert masked_url(url) == shown


@pytest.mark.parametrize(
    "url", ["http://admin:1/x9@10.0.1.5", "http://admin:1?x9@h", "http://a:#@h"]
)
def test_a_password_that_cuts_the_url_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(
        PowerSwitchError, match=r"\(http://\*\*\*@\w.*\): its password has a /"
    ) as caught:
        PowerSwitch("wps", url)
    assert "admin" not in str(caught.value) and "x9" not in str(caught.value)


def test_what_is_no_url_is_not_a_matter_of_cables() -> None:
    switch = PowerSwitch("wps", "http://127.0.0.1:s3cret", api="classic")
    with pytest.raises(PowerSwitchError, match="not a URL; correct it") as caught:
        switch.is_on(1)
    assert "nonnumeric" not in str(caught.value)


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


@pytest.mark.parametrize(
    ("algorithm", "response"),
    [
        ("MD5", "8ca523f5e9506fed4657c9700eebdbec"),
        ("SHA-256", "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
    ],
)
def test_digest_authentication_as_in_rfc_7616(
    monkeypatch: pytest.MonkeyPatch, algorithm: str, response: str
) -> None:
    own = "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ"
    monkeypatch.setattr(power_switch.secrets, "token_hex", lambda size: own)
    challenge = (
        'Digest realm="http-auth@example.org", qop="auth, auth-int",'
        f' algorithm={algorithm}, nonce="7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v",'
        ' opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"'
    )
    login = Login("Mufasa", "Circle of Life")
    answer = digest_authorization(challenge, login, "GET", "/dir/index.html")["Authorization"]
    assert f'response="{response}"' in answer and 'opaque="FQhe' in answer
    assert "Circle" not in answer


@pytest.mark.parametrize(
    "challenge", ["", 'Basic realm="x"', "Digest", 'Digest realm="x", nonce="y", algorithm=MD4']
)
def test_challenges_that_cannot_be_answered(challenge: str) -> None:
    assert digest_authorization(challenge, Login("a", "b"), "GET", "/") == {}
    assert digest_authorization('Digest realm="x", nonce="y"', None, "GET", "/") == {}


# --- the credentials file ---


def credentials(folder: Path, content: object, mode: int = 0o600) -> Path:
    path = folder / "power.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    path.chmod(mode)
    return path


def test_the_login_comes_from_the_file(tmp_path: Path, server: PowerSwitchServer) -> None:
    path = credentials(tmp_path, {"wps": {"user": "admin", "password": "1234"}})
    # The file wins over what somebody left in the URL.
    for url in (f"http://{server.address}", f"http://admin:old@{server.address}"):
        obs = changed(OBS, {("wps", "url"): url, ("power_credentials",): str(path)})
        site = load_site(write_site(tmp_path / "site", obs))
        with_file = open_switch(site.obs, site.obs.power_switches[0])
        assert with_file.states() == {n: n in (1, 8) for n in range(1, 9)}
        assert "1234" not in "".join(frozen_copies(site).values()) + repr(site.obs)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620, 0o610, 0o777])
def test_a_file_that_others_can_reach_is_refused(tmp_path: Path, mode: int) -> None:
    path = credentials(tmp_path, {"wps": {"user": "a", "password": "s3cret"}}, mode)
    with pytest.raises(CredentialsError, match=f"mode {mode:04o}.*chmod 600 {path}") as failure:
        read_login(path, "wps")
    assert "s3cret" not in str(failure.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("s3cret", "not JSON"),
        ("[1]", "wps has no user and password"),
        ({"wps": "s3cret"}, "wps has no user and password"),
        ({"wps": {"user": "a", "password": 5}}, "wps has no user and password"),
        ({"wps": {"user": "", "password": "s3cret"}}, "wps has no user and password"),
    ],
)
def test_a_file_that_is_not_understood_shows_nothing(
    tmp_path: Path, content: object, words: str
) -> None:
    with pytest.raises(CredentialsError, match=words) as failure:
        read_login(credentials(tmp_path, content), "wps")
    assert "s3cret" not in str(failure.value)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(CredentialsError, match="not found; make it"):
        read_login(tmp_path / "power.json", "wps")
    with pytest.raises(CredentialsError, match="not a file"):
        read_login(tmp_path, "wps")
    os.mkfifo(tmp_path / "fifo", 0o600)
    with pytest.raises(CredentialsError, match="not a file"):
        read_login(tmp_path / "fifo", "wps")
    path = credentials(tmp_path, {"wps_2": {"user": "a", "password": "b"}})
    assert read_login(path, "wps") is None
    assert read_login(path, "wps_2") == Login("a", "b")


def test_a_password_in_the_url_works_is_warned_of_and_masked(
    tmp_path: Path, classic: PowerSwitchServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    url = f"http://admin:1234@{classic.address}"
    site = load_site(write_site(tmp_path / "site", changed(OBS, {("wps", "url"): url})))
    assert open_switch(site.obs, site.obs.power_switches[0]).is_on(8)
    (warning,) = [w for w in site.warnings if w.path == "$.wps.url"]
    assert "power_credentials" in warning.remedy
    FlightRecorder(tmp_path, "test").note("power", url=url)
    log = next((tmp_path / "log").iterdir()).read_text()
    for text in (str(warning), caplog.text, log, *frozen_copies(site).values(), repr(site.obs)):
        assert "1234" not in text


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


@pytest.mark.parametrize("fault", ["silent", "drip"])
def test_an_answer_that_does_not_end_is_none(server: PowerSwitchServer, fault: str) -> None:
    server.fault = fault
    begin_s = time.monotonic()
    with pytest.raises(PowerSwitchError, match="no answer to .*(timed out|not complete after 0.8)"):
        PowerSwitch("wps", server.url, timeout_s=0.3).is_on(1)
    assert time.monotonic() - begin_s < 5


def test_requests_that_hang_are_bounded(
    classic: PowerSwitchServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(power_switch, "HANGING_AT_MOST", 2)
    classic.fault = "drip"
    switch = PowerSwitch("bounded", classic.url, timeout_s=0.3, api="classic")
    for words in ("not complete", "not complete", "2 earlier requests have not ended yet"):
        with pytest.raises(PowerSwitchError, match=words):
            switch.is_on(1)


@pytest.mark.parametrize("fault", ["silent", "drip"])
def test_the_guard_tells_and_tries_again(tmp_path: Path, fault: str) -> None:
    """An outlet that must be off is told of, and off as soon as the switch works again."""
    with PowerSwitchServer() as server:
        obs = changed(OBS, {("wps",): {"url": server.url, "quabo_socket": 3}})
        outlets = Outlets(load_site(write_site(tmp_path, obs)).obs, timeout_s=0.3)
        server.fault = fault
        words = wait_for(lambda: outlets.off("outlet 3 of wps", 1.0), "the trouble", 20)
        assert words and words.startswith("power switch wps (")
        asked = len(server.requests)
        wait_for(
            lambda: outlets.off("outlet 3 of wps", 1.0) and len(server.requests) > asked, "again"
        )
        server.fault = ""
        wait_for(lambda: outlets.off("outlet 3 of wps", 1.0) == "", "it to be off")
        assert 3 not in server.outlets_on


def test_what_came_of_the_last_trip_says_nothing_about_the_next(tmp_path: Path) -> None:
    """A request that succeeded when its trip was acknowledged already."""
    name = "outlet 3 of wps"
    with PowerSwitchServer(on=[3]) as server:
        obs = changed(OBS, {("wps",): {"url": server.url, "quabo_socket": 3}})
        outlets = Outlets(load_site(write_site(tmp_path, obs)).obs)
        assert outlets.off(name, 1.0) is None
        wait_for(lambda: 3 not in server.outlets_on, "it to be off")
        wait_for(lambda: not any(name in thread.name for thread in threading.enumerate()), "it")
        PowerSwitch("by hand", server.url).switch(3, on=True)
        assert outlets.off(name, 2.0) is None, "not yet"
        wait_for(lambda: outlets.off(name, 2.0) == "", "it to be off again")
        assert 3 not in server.outlets_on
