"""One board's plan, without a network: what is sent when, and what counts as an answer."""

from __future__ import annotations

import pytest

from panoseti.boards import commands
from panoseti.boards.board_plans import (
    ECHO_TIMEOUT_S,
    ECHO_TRIES,
    Conversation,
    Outcome,
    Pause,
    Reply,
    Send,
    Step,
    outgoing,
    usual_reply,
)
from panoseti.boards.packets import build_destination_reply, build_ph_baseline

IP = "192.168.3.248"
HV = commands.SetHv((1, 2, 3, 4))
BASELINE = commands.CalibratePhBaseline()
DESTINATION = commands.DataDestination("192.168.1.100", "192.168.1.100")
MAROC = commands.MarocSetup(tuple(bytes([chip]) * 103 + b"\1" for chip in range(4)))


def packet(command: commands.Command, echo: bool = True) -> bytes:
    return commands.encode(command, echo=echo)


def talk(*steps: Step, echo: bool = True) -> Conversation:
    return Conversation(IP, steps, echo)


def run_out(conversation: Conversation, now_s: float = 0.0) -> tuple[list[bytes], float]:
    """What a board that never answers is sent, and when it is given up."""
    sent = []
    while not conversation.done:
        now_s = max(now_s, conversation.wake_s)
        data = conversation.act(now_s)
        if data is not None:
            sent.append(data)
    return sent, now_s


def problem(outcome: Outcome) -> str:
    assert outcome.problem is not None
    return outcome.problem


@pytest.mark.parametrize("kind", commands.COMMANDS)
def test_every_command_has_a_way_to_be_confirmed_or_is_known_to_have_none(
    kind: type[commands.Command],
) -> None:
    examples: dict[type[commands.Command], commands.Command] = {
        commands.MarocSetup: MAROC,
        commands.SetHv: HV,
        commands.Acquisition: commands.Acquisition(commands.AcqMode(0x10)),
        commands.Focus: commands.Focus(100),
        commands.ChannelMask: commands.ChannelMask((0,) * 9),
        commands.Shutter: commands.Shutter(0),
        commands.Flasher: commands.Flasher(1),
        commands.DataDestination: DESTINATION,
        commands.HkDestination: commands.HkDestination("192.168.1.100"),
        commands.WritePhBaseline: commands.WritePhBaseline((0,) * 256),
        commands.GoeMask: commands.GoeMask(3),
        commands.HkInterval: commands.HkInterval(1),
    }
    command = examples.get(kind) or kind()
    others = {
        commands.MarocSetup: Reply.READ_BACK,
        commands.Focus: Reply.NONE,
        commands.HkInterval: Reply.NONE,
        commands.CalibratePhBaseline: Reply.OWN,
        commands.DataDestination: Reply.OWN,
        commands.ReadPhFrame: Reply.OWN,
    }
    assert usual_reply(command) is others.get(kind, Reply.ECHO)
    step = Send(command, tries=9)
    sent, _ = run_out(talk(step))
    repeatable = step.expected in (Reply.ECHO, Reply.READ_BACK)
    assert len(sent) == (9 if repeatable else 1)
    assert bool(sent[0][0] & 0x80) == repeatable


def test_an_echo_must_be_what_was_sent() -> None:
    conversation = talk(Send(HV))
    sent = conversation.act(0.0)
    assert sent == packet(HV)
    assert not conversation.receive(packet(commands.SetHv((1, 2, 3, 5))), 0.1)
    assert not conversation.receive(packet(HV, echo=False), 0.1)
    assert not conversation.receive(sent[:-1], 0.1)
    assert not conversation.receive(b"", 0.1)
    assert not conversation.done
    assert conversation.receive(sent, 0.2)
    assert conversation.outcome() == Outcome(IP, None, (sent,), (), 1)


def test_silence_is_answered_with_the_same_packet_a_few_times_and_then_told() -> None:
    conversation = talk(Send(HV), Send(commands.Reset()))
    sent, end_s = run_out(conversation)
    assert sent == [packet(HV)] * ECHO_TRIES
    assert end_s == pytest.approx(ECHO_TRIES * ECHO_TIMEOUT_S)
    outcome = conversation.outcome()
    assert not outcome.ok
    assert outcome.replies == (None, None)
    assert not outcome.once_lost
    text = problem(outcome)
    assert text.startswith(f"{IP}: no answer to set HV")
    assert "5 tries" in text
    assert "config.py --ping" in text


def test_where_answers_come_late_the_next_try_does_too() -> None:
    conversation = talk(Send(HV), Send(BASELINE))
    assert conversation.waiting_s(0.0) is None
    conversation.act(1.0, patience_s=0.1)
    assert conversation.wake_s == 1.0 + ECHO_TIMEOUT_S
    conversation.act(conversation.wake_s, patience_s=3.0)
    assert conversation.wake_s == 1.0 + ECHO_TIMEOUT_S + 3.0
    assert conversation.waiting_s(2.5) == 1.5, "since the first try"
    assert conversation.receive(packet(HV), 2.5)
    assert conversation.waiting_s(2.5) is None
    conversation.act(3.0)
    assert conversation.waiting_s(4.0) is None, "measuring takes its own time"


def test_the_time_that_was_waited_is_told() -> None:
    conversation = talk(Send(MAROC, tries=2))
    conversation.act(0.0, patience_s=2.0)
    assert conversation.receive(packet(MAROC), 0.1), "shifts out something else"
    conversation.act(conversation.wake_s, patience_s=1.0)
    conversation.act(conversation.wake_s, patience_s=1.5)
    conversation.act(conversation.wake_s)
    assert "(2 tries in 2.5 s)" in problem(conversation.outcome())


def test_an_answer_to_an_earlier_try_counts() -> None:
    conversation = talk(Send(HV))
    first = conversation.act(0.0)
    second = conversation.act(conversation.wake_s)
    assert first == second
    assert conversation.receive(packet(HV), 0.9)
    assert conversation.outcome().ok
    assert conversation.outcome().packets == 2


def test_what_must_not_be_repeated_is_not_and_gets_its_time() -> None:
    for command, limit_s in ((BASELINE, 6.0), (DESTINATION, 12.0), (commands.ReadPhFrame(), 6.0)):
        conversation = talk(Send(command, tries=7))
        sent, end_s = run_out(conversation)
        assert sent == [packet(command, echo=False)]
        assert end_s == limit_s
        assert conversation.outcome().once_lost


def test_answers_are_told_apart_by_their_content() -> None:
    conversation = talk(Send(BASELINE), Send(DESTINATION))
    conversation.act(0.0)
    frame = b"\x87" + build_ph_baseline(range(256))[1:]
    macs = build_destination_reply(b"\1" * 6, b"\2" * 6)
    assert not conversation.receive(frame, 0.5)
    assert not conversation.receive(macs, 0.5)
    assert conversation.receive(build_ph_baseline(range(256)), 2.0)
    conversation.act(conversation.wake_s)
    assert not conversation.receive(build_ph_baseline(range(256)), 2.1)
    assert conversation.receive(macs, 2.2)
    assert conversation.outcome().replies == (build_ph_baseline(range(256)), macs)


def test_a_board_that_does_not_echo_is_not_asked_to_and_reported_as_unconfirmed() -> None:
    conversation = talk(Send(HV), Send(MAROC), Send(BASELINE), echo=False)
    sent = [conversation.act(0.0), conversation.act(1.0), conversation.act(2.0)]
    assert sent == [packet(command, echo=False) for command in (HV, MAROC, BASELINE)]
    assert conversation.receive(build_ph_baseline(range(256)), 4.0)
    outcome = conversation.outcome()
    assert outcome.ok
    assert outcome.unconfirmed == ("set HV", "MAROC setup")


def test_commands_that_nothing_confirms_do_not_follow_on_each_others_heels() -> None:
    conversation = talk(Send(HV), Send(HV), echo=False)
    conversation.act(0.0)
    assert 0.0 < conversation.wake_s < 0.1


def shifted_out(command: commands.MarocSetup, chip: int = 9, bits: int = 0) -> bytes:
    """The answer to a load: the one before, its spare bits set, some bits of a chip flipped."""
    data = bytearray(packet(command))
    for place in range(4 + 103, 492, 128):
        data[place] |= 0xE0
    if chip < 4:
        data[4 + 128 * chip] ^= bits
    return bytes(data)


def test_maroc_is_loaded_twice_and_read_back() -> None:
    conversation = talk(Send(MAROC))
    assert conversation.act(0.0) == packet(MAROC)
    assert conversation.receive(shifted_out(MAROC, 0, 0xFF), 0.01)
    assert conversation.act(conversation.wake_s) == packet(MAROC)
    assert conversation.receive(shifted_out(MAROC), 0.02)
    assert conversation.outcome().ok
    assert conversation.outcome().packets == 2


def test_a_late_answer_to_the_first_load_does_not_condemn_the_second() -> None:
    conversation = talk(Send(MAROC))
    conversation.act(0.0)
    assert conversation.receive(shifted_out(MAROC, 0, 0xFF), 0.01)
    conversation.act(0.01)
    assert not conversation.receive(shifted_out(MAROC, 0, 0xFF), 0.02)
    assert conversation.receive(shifted_out(MAROC), 0.03)
    assert conversation.outcome().ok


def test_a_register_that_does_not_hold_its_bits_is_named() -> None:
    conversation = talk(Send(MAROC))
    conversation.act(0.0)
    conversation.receive(shifted_out(MAROC), 0.01)
    loads = 0
    while not conversation.done:
        loads += conversation.act(conversation.wake_s) is not None
        conversation.receive(shifted_out(MAROC, 2, 0x01), conversation.wake_s - 0.1)
    assert loads == 3
    text = problem(conversation.outcome())
    assert "MAROC setup reads back wrong: OTABG_ON of chip 2: " in text


def test_a_pause_is_waited_for() -> None:
    conversation = talk(Pause(2.0, "the shutter moves"), Send(HV))
    assert conversation.act(10.0) is None
    assert conversation.wake_s == 12.0
    assert conversation.act(12.0) is None
    assert conversation.act(conversation.wake_s) == packet(HV)


def test_a_plan_may_go_on_after_a_silence() -> None:
    conversation = talk(Send(HV, go_on=True, tries=1), Send(commands.Reset(), tries=1))
    sent, _ = run_out(conversation)
    assert sent == [packet(HV), packet(commands.Reset())]
    assert "set HV" in problem(conversation.outcome())
    assert "reset" in problem(conversation.outcome())


def test_what_the_network_says_is_in_the_problem() -> None:
    conversation = talk(Send(HV, tries=1))
    conversation.trouble = "Network is unreachable"
    run_out(conversation)
    assert "s, Network is unreachable)" in problem(conversation.outcome())


def test_impossible_confirmations_are_refused() -> None:
    for command, reply in (
        (HV, Reply.READ_BACK),
        (HV, Reply.OWN),
        (MAROC, Reply.ECHO),
        (BASELINE, Reply.ECHO),
        (commands.HkInterval(1), Reply.ECHO),
    ):
        with pytest.raises(ValueError, match=command.name):
            Send(command, reply)
    with pytest.raises(ValueError, match="tries 0"):
        Send(HV, tries=0)


def test_outgoing_packets_of_a_plan() -> None:
    steps = (Send(HV), Pause(1.0), Send(MAROC), Send(BASELINE))
    assert outgoing(steps) == [packet(HV), packet(MAROC), packet(MAROC), bytes(BASELINE)]
    assert outgoing(steps, echo=False) == [bytes(HV), bytes(MAROC), bytes(BASELINE)]
