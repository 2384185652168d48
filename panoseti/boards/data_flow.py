"""Telling boards to send science data, and to stop it.

    with open_link(site, flight) as link:
        outcomes = start_data_flow(site, link, boards)

Each board gets its housekeeping destination, its data destination (the DAQ node that records its
module) and then the acquisition command, in this order: the firmware looks at the destinations
when acquisition begins.  Only when all boards have confirmed their destinations the first one
sends, so that a board that does not answer costs no half-recorded data.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from panoseti.boards import commands
from panoseti.boards.board_link import BoardLink, Outcome, Send, open_link
from panoseti.boards.packets import parse_destination_reply
from panoseti.configs import settings
from panoseti.configs.load_configs import Site
from panoseti.configs.site import Quabo
from panoseti.flight import FlightRecorder

# Stopping is not to wait for a dead board: 4 tries of half a second.
STOP_TRIES = 4


def set_destinations(site: Site, link: BoardLink, boards: Iterable[Quabo]) -> dict[str, Outcome]:
    """Tell boards where to send housekeeping and data; what became of each.

    A board whose destination does not answer ARP has a problem: it would send nothing.
    ConfigError (before anything is sent) when a destination does not resolve.
    """
    head_ip = site.destination_of(site.daq.head_node_ip_addr)
    plans = {}
    node_ips = {}
    for quabo in boards:
        node_ip = site.destination_of(site.node_of(quabo.module_id).ip_addr)
        node_ips[quabo.ip] = node_ip
        plans[quabo.ip] = [
            Send(commands.HkDestination(head_ip)),
            Send(commands.DataDestination(node_ip, node_ip)),
        ]
    outcomes = link.run(plans, site.obs.echo_by_ip)
    return {ip: _with_arp(outcome, node_ips[ip]) for ip, outcome in outcomes.items()}


def start_acquisition(site: Site, link: BoardLink, boards: Iterable[Quabo]) -> dict[str, Outcome]:
    """Let boards send science data; what became of each."""
    start = [Send(settings.acquisition(site.data))]
    return link.run({quabo.ip: start for quabo in boards}, site.obs.echo_by_ip)


def start_data_flow(site: Site, link: BoardLink, boards: Iterable[Quabo]) -> dict[str, Outcome]:
    """Both; no board sends unless every board knows where to."""
    chosen = list(boards)
    outcomes = set_destinations(site, link, chosen)
    if any(outcome.problem for outcome in outcomes.values()):
        return outcomes
    return start_acquisition(site, link, chosen)


def _with_arp(outcome: Outcome, node_ip: str) -> Outcome:
    reply = outcome.replies[1]
    if not outcome.ok or reply is None:
        return outcome
    found = parse_destination_reply(reply)
    if found.ph_found and found.image_found:
        return outcome
    problem = (
        f"{outcome.ip}: the data destination {node_ip} does not answer its ARP requests, so that it"
        " cannot send data there; is the DAQ node up, and its interface towards the boards?"
    )
    return replace(outcome, problem=problem)


def stop_data_flow(site: Site, link: BoardLink, boards: Iterable[Quabo]) -> dict[str, Outcome]:
    """Stop the data flow of boards, within a few seconds whatever they do; what became of each."""
    stop = [Send(settings.stop_acquisition(), tries=STOP_TRIES)]
    return link.run({quabo.ip: stop for quabo in boards}, site.obs.echo_by_ip)


def link_to_stop(site: Site, flight: FlightRecorder) -> BoardLink:
    """The link for `stop_data_flow`: a fixed port that is busy, or cannot be had, holds up neither
    the boards' end nor what follows it.
    """
    return open_link(site, flight, priority=bool(site.obs.command_source_port))
