"""Commands on a DAQ node over ssh.  The only user of paramiko, and the only place that quotes.

    with Shell(node, obs, flight) as shell:
        result = shell.run(["python3", "status_daq.py"], timeout_s=20, step="read its status")

One connection per node, made at the first command and used by all further ones.  The node's host
key must be pinned in a known_hosts file; the key of obs_config.json (or the user's own keys) opens
the door; no agent, no password, no question is ever asked.  Every wait has an end.  Whatever goes
wrong becomes a RemoteError: node, what was being done, why, and what helps.
"""

from __future__ import annotations

import logging
import os
import select
import shlex
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import paramiko

from panoseti.configs.site import DaqNode, ObsConfig
from panoseti.errors import RemoteError
from panoseti.flight import FlightRecorder
from panoseti.nodes.known_hosts import PinnedKey, fingerprint, host_entry, pinned_keys

CONNECT_TIMEOUT_S = 5.0
HANDSHAKE_TIMEOUT_S = 15.0
KEEPALIVE_S = 5
# Unanswered packets (keep-alives, too) for so long mean that the connection is dead.
DEAD_AFTER_S = 20
OUTPUT_MAX_BYTES = 64 << 20
# Output that a command's children may still hold open when it has ended.
LINGER_S = 0.5
USER_KEYS = ("id_ed25519", "id_ecdsa", "id_rsa")
USER_KNOWN_HOSTS = ("~/.ssh/known_hosts", "/etc/ssh/ssh_known_hosts")

# paramiko logs with tracebacks what it raises as well.
_QUIET = "panoseti.paramiko"
logging.getLogger(_QUIET).propagate = False
logging.getLogger(_QUIET).addHandler(logging.NullHandler())


class UnreachableError(RemoteError):
    """No connection to the node: nothing was done there by this call."""


@dataclass(frozen=True)
class Result:
    """What a command gave back: exit code, stdout, stderr."""

    code: int
    out: str
    err: str

    @property
    def last_words(self) -> str:
        """The last line it said, on stderr rather than stdout."""
        lines = (self.err.strip() or self.out.strip()).splitlines()
        return lines[-1].strip() if lines else "it said nothing"


class Shell:
    """A node's shell.  Context manager; may be entered again after it was left.

    run() may be called from several threads; the connection is shared.
    """

    def __init__(
        self,
        node: DaqNode,
        obs: ObsConfig,
        flight: FlightRecorder | None = None,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        handshake_timeout_s: float = HANDSHAKE_TIMEOUT_S,
    ) -> None:
        self.node = node
        self._obs = obs
        self._flight = flight or FlightRecorder(None, "")
        self._connect_timeout_s = connect_timeout_s
        self._handshake_timeout_s = handshake_timeout_s
        self._transport: paramiko.Transport | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> Shell:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the connection up."""
        with self._lock:
            if self._transport is not None:
                self._transport.close()
                self._transport = None

    def run(
        self, argv: Sequence[str], timeout_s: float, input: bytes = b"", step: str = ""
    ) -> Result:
        """Run a command; its result, whatever its exit code.

        step: what it is for, in words that complete "could not ...".  Raises RemoteError, of which
        UnreachableError when there is no connection.
        """
        step = step or f"run {os.path.basename(argv[0])}"
        begin = time.monotonic()
        self._flight.note("ssh", node=self.node.ip_addr, step=step, argv=list(argv))
        try:
            transport = self._connected(step)
            result = self._exchange(transport, argv, timeout_s, input, step)
        except RemoteError as error:
            self._flight.note("ssh_failed", node=self.node.ip_addr, step=step, error=str(error))
            raise
        seconds = round(time.monotonic() - begin, 3)
        self._flight.note(
            "ssh_end", node=self.node.ip_addr, step=step, code=result.code, seconds=seconds
        )
        return result

    def put(self, data: bytes, remote: str, mode: int = 0o644, timeout_s: float = 60.0) -> None:
        """A small file on the node: complete under its name, or not at all."""
        script = (
            'cat > "$1.part" && test "$(wc -c < "$1.part")" -eq "$3" && chmod "$2" "$1.part"'
            ' && mv -f "$1.part" "$1"'
        )
        words = ["sh", "-c", script, "put", remote, f"{mode:o}", str(len(data))]
        step = f"copy {os.path.basename(remote)}"
        result = self.run(words, timeout_s, data, step)
        if result.code:
            raise self.error(step, result.last_words, "")

    def error(self, step: str, why: str, remedy: str) -> RemoteError:
        """A RemoteError of this node."""
        return RemoteError(_sentence(self.node, step, why, remedy))

    def _connected(self, step: str) -> paramiko.Transport:
        with self._lock:
            if self._transport is None or not self._transport.is_active():
                if self._transport is not None:
                    self._transport.close()
                self._transport = _connect(
                    self.node, self._obs, step, self._connect_timeout_s, self._handshake_timeout_s
                )
            return self._transport

    def _exchange(
        self,
        transport: paramiko.Transport,
        argv: Sequence[str],
        timeout_s: float,
        input: bytes,
        step: str,
    ) -> Result:
        deadline = time.monotonic() + timeout_s
        try:
            channel = transport.open_session(timeout=min(timeout_s, self._handshake_timeout_s))
        except (paramiko.SSHException, OSError, EOFError) as error:
            why = f"no further session in its connection ({_words(error)})"
            raise UnreachableError(_sentence(self.node, step, why, "try again")) from error
        try:
            channel.settimeout(timeout_s)
            # A server that hangs would let this wait for ever; closing the channel ends it.
            watchdog = threading.Timer(timeout_s, channel.close)
            watchdog.daemon = True
            watchdog.start()
            try:
                channel.exec_command(shlex.join(argv).encode())
            finally:
                watchdog.cancel()
            feeder = threading.Thread(target=_feed, args=(channel, input), daemon=True)
            feeder.start()
            result = self._collect(transport, channel, deadline, timeout_s, step)
        except (paramiko.SSHException, OSError, EOFError) as error:
            raise self.error(
                step, f"the connection broke ({_words(error)})", "try again"
            ) from error
        finally:
            channel.close()
        feeder.join(1.0)
        return result

    def _collect(
        self,
        transport: paramiko.Transport,
        channel: paramiko.Channel,
        deadline: float,
        timeout_s: float,
        step: str,
    ) -> Result:
        """Both outputs and the exit code, as they come."""
        out, err = bytearray(), bytearray()
        quiet_since: float | None = None
        poll = select.poll()
        poll.register(channel.fileno(), select.POLLIN)
        while True:
            ended = channel.exit_status_ready()
            complete = channel.eof_received or channel.closed
            came = _drain(channel, out, err)
            if len(out) + len(err) > OUTPUT_MAX_BYTES:
                raise self.error(step, f"more than {OUTPUT_MAX_BYTES >> 20} MB of output", "")
            now = time.monotonic()
            if ended and not came:
                quiet_since = quiet_since or now
                if complete or now - quiet_since > LINGER_S:
                    break
            if now > deadline:
                raise self.error(step, f"no end within {timeout_s:g} s", "look at the node")
            wait_s = min(0.1, deadline - now + 0.001)
            if complete:
                channel.status_event.wait(wait_s)
            else:
                poll.poll(wait_s * 1000)
        if channel.exit_status < 0:
            if time.monotonic() >= deadline:
                raise self.error(step, f"no reply within {timeout_s:g} s", "look at the node")
            if not transport.is_active():
                raise self.error(step, "the connection was lost", "try again")
            raise self.error(step, "the command was ended by a signal", "look at the node")
        return Result(channel.exit_status, _text(out), _text(err))


def _drain(channel: paramiko.Channel, out: bytearray, err: bytearray) -> bool:
    """Take what has arrived; whether anything had."""
    came = False
    while channel.recv_ready():
        out += channel.recv(1 << 16)
        came = True
    while channel.recv_stderr_ready():
        err += channel.recv_stderr(1 << 16)
        came = True
    return came


def _feed(channel: paramiko.Channel, data: bytes) -> None:
    """Write a command's stdin and close it; a command that does not read it is free to."""
    try:
        channel.sendall(data)
        channel.shutdown_write()
    except (OSError, EOFError, paramiko.SSHException):
        pass  # the command has ended, or the connection: the reader of its output tells


def _text(data: bytearray) -> str:
    return data.decode("utf-8", "replace")


# --- connecting ---


def _connect(
    node: DaqNode, obs: ObsConfig, step: str, connect_timeout_s: float, handshake_timeout_s: float
) -> paramiko.Transport:
    """An authenticated connection; raises UnreachableError."""
    pinned = _pinned_keys(node, obs, step)
    keys = _private_keys(node, obs, step)
    sock = _open_socket(node, step, connect_timeout_s)
    deadline = time.monotonic() + handshake_timeout_s
    try:
        transport = paramiko.Transport(sock)
    except (paramiko.SSHException, OSError) as error:
        sock.close()
        raise UnreachableError(_sentence(node, step, _words(error), "")) from error
    try:
        transport.set_log_channel(_QUIET)
        # Our own deadline comes first, and says more.
        transport.banner_timeout = transport.handshake_timeout = handshake_timeout_s + 5
        _prefer(transport, pinned)
        _shake_hands(node, transport, step, deadline)
        _check_host_key(node, obs, transport, pinned, step)
        _log_in(node, obs, transport, keys, step, deadline)
        transport.set_keepalive(KEEPALIVE_S)
    except BaseException:
        transport.close()
        raise
    return transport


def _open_socket(node: DaqNode, step: str, timeout_s: float) -> socket.socket:
    where = f"{node.ip_addr} port {node.ssh_port}"
    try:
        sock = socket.create_connection((node.ip_addr, node.ssh_port), timeout_s)
    except TimeoutError as error:
        why = f"{where} does not answer within {timeout_s:g} s"
        remedy = "is the node switched on and its network connected?"
        raise UnreachableError(_sentence(node, step, why, remedy)) from error
    except ConnectionRefusedError as error:
        remedy = "start sshd there, or correct ssh_port in daq_config.json"
        why = f"no ssh server at {where}"
        raise UnreachableError(_sentence(node, step, why, remedy)) from error
    except (socket.gaierror, UnicodeError) as error:
        why = f"{node.ip_addr} has no address ({_words(error)})"
        remedy = "correct ip_addr in daq_config.json, or the name server"
        raise UnreachableError(_sentence(node, step, why, remedy)) from error
    except OSError as error:
        remedy = "is the node switched on and its network connected?"
        why = f"{where}: {_words(error)}"
        raise UnreachableError(_sentence(node, step, why, remedy)) from error
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, DEAD_AFTER_S * 1000)
    return sock


def _shake_hands(node: DaqNode, transport: paramiko.Transport, step: str, deadline: float) -> None:
    done = threading.Event()
    remedy = "is that port an ssh server, and is the node overloaded?"
    transport.start_client(event=done)
    while not done.wait(0.05):
        if time.monotonic() > deadline:
            why = f"port {node.ssh_port} accepts connections but does not speak ssh in time"
            raise UnreachableError(_sentence(node, step, why, remedy))
    error = transport.get_exception()
    if error is not None or not transport.is_active():
        why = f"no ssh connection ({_words(error) if error else 'closed at once'})"
        raise UnreachableError(_sentence(node, step, why, remedy)) from error


# --- host keys ---


def known_hosts_files(obs: ObsConfig) -> tuple[Path, ...]:
    """Where host keys are pinned: the site's file, or the user's own and the system's."""
    if obs.ssh_known_hosts is not None:
        return (Path(obs.ssh_known_hosts),)
    return tuple(Path(name).expanduser() for name in USER_KNOWN_HOSTS)


def _pinned_keys(node: DaqNode, obs: ObsConfig, step: str) -> tuple[PinnedKey, ...]:
    found: list[PinnedKey] = []
    for path in known_hosts_files(obs):
        try:
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            continue
        except OSError as error:
            why = f"{path} cannot be read ({error.strerror})"
            raise UnreachableError(_sentence(node, step, why, "correct its owner")) from error
        found += pinned_keys(lines, node.ip_addr, node.ssh_port)
    return tuple(found)


def _prefer(transport: paramiko.Transport, pinned: Sequence[PinnedKey]) -> None:
    """Ask the server for a kind of host key that is pinned, when it has several."""
    options = transport.get_security_options()
    known = {key.kind for key in pinned if not key.revoked}
    if "ssh-rsa" in known:
        known |= {"rsa-sha2-512", "rsa-sha2-256"}
    wanted = [kind for kind in options.key_types if kind in known]
    options.key_types = wanted + [kind for kind in options.key_types if kind not in known]


def _check_host_key(
    node: DaqNode,
    obs: ObsConfig,
    transport: paramiko.Transport,
    pinned: Sequence[PinnedKey],
    step: str,
) -> None:
    try:
        key = transport.get_remote_server_key()
    except paramiko.SSHException as error:  # it has been lost since the handshake
        why = f"no ssh connection ({_words(error)})"
        raise UnreachableError(_sentence(node, step, why, "try again")) from error
    data = key.get_base64()
    if any(pin.data == data and pin.revoked for pin in pinned):
        why = f"its host key {fingerprint(key.asbytes())} is marked as revoked"
        raise UnreachableError(_sentence(node, step, why, "give the node a new host key"))
    trusted = [pin for pin in pinned if not pin.revoked]
    if any(pin.data == data for pin in trusted):
        return
    path = known_hosts_files(obs)[0]
    entry = host_entry(node.ip_addr, node.ssh_port)
    shown = f"{key.get_name()} {fingerprint(key.asbytes())}"
    scan = f"ssh-keyscan -p {node.ssh_port} {node.ip_addr} >> {shlex.quote(str(path))}"
    if not trusted:
        why = f"its host key is not known ({shown}, not in {path})"
        remedy = f"compare it with ssh-keygen -lf of the key file on the node, then: {scan}"
    else:
        old = ", ".join(f"{pin.kind} {pin.fingerprint}" for pin in trusted)
        why = f"its host key has changed (now {shown}; {path} has {old})"
        remedy = (
            "somebody else may be answering; if the node was installed anew:"
            f" ssh-keygen -R {shlex.quote(entry)} -f {shlex.quote(str(path))}; {scan}"
        )
    raise UnreachableError(_sentence(node, step, why, remedy))


# --- logging in ---


def _private_keys(node: DaqNode, obs: ObsConfig, step: str) -> list[tuple[Path, paramiko.PKey]]:
    """The operator's keys; raises UnreachableError when there is none that can be used."""
    if obs.ssh_key is not None:
        paths = [Path(obs.ssh_key)]
    else:
        own = [Path("~/.ssh").expanduser() / name for name in USER_KEYS]
        paths = [path for path in own if path.exists()]
    keys = []
    problem = "there is no key in ~/.ssh (id_ed25519, id_ecdsa, id_rsa)"
    for path in paths:
        try:
            keys.append((path, paramiko.PKey.from_path(path)))
        except OSError as error:
            problem = f"key {path} cannot be read ({error.strerror})"
        except (paramiko.PasswordRequiredException, TypeError):
            problem = f"key {path} is protected by a passphrase"
        except Exception as error:  # of paramiko, or of what it is built on
            problem = f"{path} is not a private key that can be used ({_words(error)})"
    if not keys:
        remedy = "make one without a passphrase (ssh-keygen -t ed25519), or correct ssh_key"
        raise UnreachableError(_sentence(node, step, problem, f"{remedy} in obs_config.json"))
    return keys


def _log_in(
    node: DaqNode,
    obs: ObsConfig,
    transport: paramiko.Transport,
    keys: Sequence[tuple[Path, paramiko.PKey]],
    step: str,
    deadline: float,
) -> None:
    reason = "refused"
    for _, key in keys:
        transport.auth_timeout = max(0.1, deadline - time.monotonic())
        try:
            further = transport.auth_publickey(node.username, key)
        except paramiko.BadAuthenticationType as error:
            reason = f"it wants {', '.join(error.allowed_types)}"
        except paramiko.AuthenticationException as error:
            reason = _words(error)
        except (paramiko.SSHException, OSError, EOFError) as error:
            reason = _words(error)
        else:
            if transport.is_authenticated():
                return
            reason = f"it wants {', '.join(further)} as well"
        if not transport.is_active():
            break
    names = ", ".join(str(path) for path, _ in keys)
    why = f"it does not let user {node.username} in with key {names} ({reason})"
    remedy = f"add {keys[0][0]}.pub to ~{node.username}/.ssh/authorized_keys on the node"
    raise UnreachableError(_sentence(node, step, why, remedy))


# --- words ---


def _sentence(node: DaqNode, step: str, why: str, remedy: str) -> str:
    text = f"{node.ip_addr}: could not {step}: {why}"
    return f"{text}; {remedy}" if remedy else text


def _words(error: BaseException) -> str:
    """An error in one line."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__
