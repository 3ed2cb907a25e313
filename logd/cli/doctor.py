"""``logd-cli doctor``: a connection, end to end, one step after the other; what fails and what to change.

The steps are those of any Kafka client: name, route, peer, version, login, listener (where clients are sent on to),
cluster, rights, topic, group. A step that fails ends those that need it. Changes nothing on the server.
"""

from __future__ import annotations

import time
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import click
import msgspec

from logd.cli.completion import group_names, topic_names
from logd.cli.failures import CANNOT_CONNECT, FAILED, NOT_AUTHORISED, NOT_FOUND, USAGE, Failure, did_you_mean, typed
from logd.cli.options import Settings, common_options, examples
from logd.cli.output import show_rows
from logd.cli.peer import Peer, Wrong

if TYPE_CHECKING:
    from logd.client.address import Address

STEPS = {
    "name": CANNOT_CONNECT,
    "route": CANNOT_CONNECT,
    "peer": CANNOT_CONNECT,
    "version": FAILED,
    "login": NOT_AUTHORISED,
    "listener": CANNOT_CONNECT,
    "cluster": FAILED,
    "rights": NOT_AUTHORISED,
    "topic": NOT_FOUND,
    "group": FAILED,
}
"""Every step with the exit code of its failure."""

COLUMNS = ("check", "about", "result", "detail")
OK, BAD = "ok", "failed"
LIMIT_S = 5.0
"""For one step; less when --timeout is."""
NOT_TOLD = -(1 << 31)
READ, WRITE = 3, 4
"""Bits of what may be done with a topic."""
NO_TOPIC, NO_RIGHT_TOPIC, NO_RIGHT_GROUP = 3, 29, 30
NOT_YET = (14, 15)
"""The coordinator is loading, or not available: that may pass."""
SASL_HANDSHAKE = 17
UNSUPPORTED_MECHANISM = 33


class Check(msgspec.Struct):
    """One step and how it ended."""

    step: str
    about: str
    result: str
    detail: str
    remedy: str = ""


@click.command(epilog=examples("logd-cli doctor -b kafka:9092 --topic orders --group billing"))
@click.option("-t", "--topic", metavar="TOPIC", shell_complete=topic_names, help="Check this topic too.")
@click.option("-g", "--group", metavar="GROUP", shell_complete=group_names, help="Check the way to this group too.")
@common_options()
@click.pass_obj
def doctor(settings: Settings, topic: str | None, group: str | None) -> None:
    """Check a connection end to end, and say what fails and what to change.

    Name, route, peer, version, login, the addresses that clients are sent on to, rights, topic and group. In a pipe:
    one line for each check, with check, what it is about, ok or failed, and the detail.
    """
    found: list[Check] = []
    for address in _addresses(settings.bootstrap):
        examination = Examination(address, min(settings.timeout_s, LIMIT_S))
        found += examination.run(topic, group)
    show_rows(settings.output, COLUMNS, [(item.step, item.about, item.result, item.detail) for item in found])
    failed = [item for item in found if item.result == BAD]
    if failed:
        first = failed[0]
        what = f"{first.step}: {first.about}"
        more = f" ({len(failed) - 1} more failed)" if len(failed) > 1 else ""
        raise Failure(what, first.detail + more, first.remedy, STEPS[first.step])


def _addresses(bootstrap: str) -> tuple[Address, ...]:
    from logd.client.address import parse_addresses

    try:
        return parse_addresses(bootstrap)
    except ValueError as error:
        raise Failure("the address of the server is wrong", str(error), "--bootstrap HOST:PORT", USAGE) from None


class Examination:
    """All steps for one address."""

    def __init__(self, address: Address, limit_s: float) -> None:
        self._address = address
        self._limit_s = limit_s
        self._found: list[Check] = []

    def run(self, topic: str | None, group: str | None) -> list[Check]:
        try:
            self._steps(topic, group)
        except Wrong as wrong:
            self._found.append(Check(wrong.step, str(self._address), BAD, wrong.why, wrong.remedy))
        except (OSError, EOFError) as error:
            why = "the connection was closed" if isinstance(error, EOFError) else str(error)
            self._found.append(Check("peer", str(self._address), BAD, why, "the server's log may say why"))
        return self._found

    def _ok(self, step: str, about: str, detail: str) -> None:
        self._found.append(Check(step, about, OK, detail))

    def _bad(self, step: str, about: str, detail: str, remedy: str) -> None:
        self._found.append(Check(step, about, BAD, detail, remedy))

    def _steps(self, topic: str | None, group: str | None) -> None:
        about = str(self._address)
        with Peer(*self._address, self._limit_s) as peer:
            self._ok("name", self._address.host, ", ".join(peer.addresses))
            self._ok("route", about, f"connected in {peer.connect_ms:.1f} ms")
            peer.greet()
            kind = "logd" if peer.is_logd else "Apache Kafka" if "metadata.version" in peer.features else "a server"
            self._ok("peer", about, f"{kind} that offers {len(peer.versions)} APIs")
            self._versions(peer)
            metadata = self._login(peer)
            self._listeners(metadata)
            self._cluster(metadata)
            if topic is not None:
                self._topic(metadata, topic)
            if group is not None:
                self._group(peer, group)

    def _versions(self, peer: Peer) -> None:
        from logd.client import calls

        needed = [
            calls.METADATA,
            calls.PRODUCE,
            calls.FETCH,
            calls.LIST_OFFSETS,
            calls.FIND_COORDINATOR,
            calls.OFFSET_COMMIT,
            calls.OFFSET_FETCH,
            calls.CREATE_TOPICS,
        ]
        for call in needed:
            peer.version_for(call)
        spoken = ", ".join(f"{call.name} {peer.version_for(call)}" for call in needed[:3])
        self._ok("version", str(self._address), spoken)

    def _login(self, peer: Peer) -> Any:
        """What every client asks next; a listener that wants a login hangs up."""
        from logd.client.calls import METADATA
        from logd.wire.schemas.metadata import MetadataRequest

        version = min(peer.version_for(METADATA), 9)
        request = MetadataRequest(
            topics=None,
            allow_auto_topic_creation=False,
            include_cluster_authorized_operations=version >= 8,
            include_topic_authorized_operations=version >= 8,
        )
        try:
            answer = peer.ask(METADATA.key, version, request)
        except EOFError:
            mechanisms = self._mechanisms()
            if mechanisms is None:
                why = "it answers for its versions, but hangs up when it is asked for metadata"
                raise Wrong("peer", why, "the server's log may say why") from None
            why = f"the listener asks for a login ({', '.join(mechanisms) or 'no mechanism told'})"
            raise Wrong("login", why, "use a listener without a login: logd-cli has none yet") from None
        self._ok("login", str(self._address), "none is asked for")
        return answer

    def _mechanisms(self) -> list[str] | None:
        """The mechanisms of a login; None when the listener has none."""
        from logd.wire.schemas.sasl_handshake import SaslHandshakeRequest

        try:
            with Peer(*self._address, self._limit_s) as peer:
                peer.greet()
                answer = peer.ask(SASL_HANDSHAKE, 1, SaslHandshakeRequest(mechanism="logd-cli-doctor"))
        except (Wrong, OSError, EOFError):
            return None
        return list(answer.mechanisms) if answer.error_code == UNSUPPORTED_MECHANISM else None

    # -- where clients are sent on to

    def _listeners(self, metadata: Any) -> None:
        from logd.client.address import Address

        for broker in sorted(metadata.brokers, key=lambda item: int(item.node_id)):
            advertised = Address(broker.host, broker.port)
            about = f"broker {broker.node_id} at {advertised}"
            key = f"advertised.listeners of broker {broker.node_id}"
            try:
                cluster = self._reached(advertised)
            except Wrong as wrong:
                why = f"clients are sent on to {advertised}, but {wrong.why}"
                self._bad("listener", about, why, self._remedy(advertised, key))
                continue
            if cluster != metadata.cluster_id:
                why = f"clients are sent on to {advertised}, which is of another cluster ({cluster})"
                self._bad("listener", about, why, self._remedy(advertised, key))
            else:
                self._ok("listener", about, "reached")
        if not metadata.brokers:
            self._bad("listener", str(self._address), "the server knows no broker, itself not either", "restart it")

    def _reached(self, advertised: Address) -> str | None:
        """The cluster that is found at an advertised address. :raises Wrong: none."""
        from logd.client.calls import METADATA
        from logd.wire.schemas.metadata import MetadataRequest

        with Peer(*advertised, self._limit_s) as peer:
            peer.greet()
            request = MetadataRequest(topics=[], allow_auto_topic_creation=False)
            try:
                cluster: str | None = peer.ask(METADATA.key, min(peer.version_for(METADATA), 9), request).cluster_id
            except (OSError, EOFError):
                raise Wrong("peer", "it hangs up there when it is asked for metadata", "") from None
            return cluster

    def _remedy(self, advertised: Address, key: str) -> str:
        better = f"set {key} to an address that this machine reaches, as in {self._address.host}:{advertised.port}"
        if _is_local(advertised.host) and not _is_local(self._address.host):
            return f"{advertised.host} is each client's own machine: {better}"
        return better

    def _cluster(self, metadata: Any) -> None:
        partitions = [part for topic in metadata.topics for part in topic.partitions]
        lost = sum(part.leader_id < 0 for part in partitions)
        nodes = [broker.node_id for broker in metadata.brokers]
        about = str(metadata.cluster_id)
        if metadata.controller_id not in nodes:
            self._bad("cluster", about, "no broker is its controller", "see the logs of the brokers")
        elif lost:
            why = f"{lost} of {len(partitions)} partitions have no leader"
            self._bad("cluster", about, why, "start the brokers that are down; logd-cli cluster info")
        else:
            self._ok("cluster", about, f"{len(nodes)} broker{'s' * (len(nodes) != 1)}, {len(partitions)} partitions")

    # -- topic and group

    def _topic(self, metadata: Any, name: str) -> None:
        found = next((item for item in metadata.topics if item.name == name), None)
        if found is None or found.error_code == NO_TOPIC:
            hint = did_you_mean(name, [item.name for item in metadata.topics])
            why = f"it does not exist, or it may not be seen{'; ' + hint if hint else ''}"
            return self._bad("topic", name, why, f"logd-cli topic create {typed(name)}")
        if found.error_code == NO_RIGHT_TOPIC:
            return self._bad(
                "rights", name, "nothing may be done with the topic", "ask for the rights DESCRIBE and READ"
            )
        allowed = found.topic_authorized_operations
        missing = [word for bit, word in ((READ, "READ"), (WRITE, "WRITE")) if not allowed >> bit & 1]
        if allowed != NOT_TOLD and missing:
            why = f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not allowed"
            self._bad("rights", name, why, f"ask for {' and '.join(missing)} on topic {name}")
        else:
            self._ok("rights", name, "nothing is refused" if allowed == NOT_TOLD else "it may be read and written")
        lost = [part.partition_index for part in found.partitions if part.leader_id < 0]
        if lost:
            why = f"partition {', '.join(map(str, lost))} of {len(found.partitions)} has no leader"
            return self._bad("topic", name, why, "start the brokers that are down; logd-cli cluster info")
        return self._ok("topic", name, f"{len(found.partitions)} partitions, each has a leader")

    def _group(self, peer: Peer, name: str) -> None:
        from logd.client.calls import FIND_COORDINATOR
        from logd.wire.schemas.find_coordinator import FindCoordinatorRequest

        version = min(peer.version_for(FIND_COORDINATOR), 2)
        deadline = time.monotonic() + self._limit_s
        while True:  # the first question makes the topic of the offsets, which takes a moment
            answer = peer.ask(FIND_COORDINATOR.key, version, FindCoordinatorRequest(key=name, key_type=0))
            if answer.error_code not in NOT_YET or time.monotonic() > deadline:
                break
            time.sleep(0.1)
        if answer.error_code == NO_RIGHT_GROUP:
            self._bad("rights", name, "the group may not be used", f"ask for READ on group {name}")
        elif answer.error_code:
            why = f"it has no coordinator (error {answer.error_code}: {answer.error_message or 'no reason told'})"
            self._bad("group", name, why, "wait a moment; is the topic __consumer_offsets there and has it leaders?")
        else:
            self._ok("group", name, f"broker {answer.node_id} at {answer.host}:{answer.port} coordinates it")


def _is_local(host: str) -> bool:
    """Whether every machine means itself by this."""
    if host == "localhost":
        return True
    try:
        address = ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified
