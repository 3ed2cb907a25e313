"""Settings of groups and of subscriptions to client metrics."""

from __future__ import annotations

from ..tale import Tale, case

METRICS, GROUP = 16, 32
SET, DELETE, APPEND = 0, 1, 2
OF_CONSUMERS = ["consumer.session.timeout.ms", "consumer.heartbeat.interval.ms", "consumer.assignment.interval.ms"]
OF_METRICS = ["interval.ms", "match", "metrics"]


def alter(t: Tale, kind: int, name: str, *changes: tuple[str, int, str | None], validate_only: bool = False) -> None:
    configs = [{"name": key, "config_operation": op, "value": value} for key, op, value in changes]
    resource = {"resource_type": kind, "resource_name": name, "configs": configs}
    t.ask("IncrementalAlterConfigs", 1, resources=[resource], validate_only=validate_only)


def describe(t: Tale, kind: int, name: str, keys: list[str]) -> None:
    resource = {"resource_type": kind, "resource_name": name, "configuration_keys": keys}
    t.ask("DescribeConfigs", 4, resources=[resource], include_synonyms=True)


@case("group-configs")
def group_configs(t: Tale) -> None:
    """A group's own settings: within the broker's limits, known names, numbers."""
    group = t.name("g")
    describe(t, GROUP, group, OF_CONSUMERS[:2])
    describe(t, GROUP, "", OF_CONSUMERS[:2])
    for name, value in (
        ("consumer.session.timeout.ms", "44999"),
        ("consumer.session.timeout.ms", "60001"),
        ("consumer.session.timeout.ms", "x"),
        ("consumer.heartbeat.interval.ms", "1"),
        ("consumer.heartbeat.interval.ms", "15001"),
        ("consumer.assignment.interval.ms", "-1"),
        ("consumer.assignment.interval.ms", "15001"),
        ("nonsense", "1"),
    ):
        alter(t, GROUP, group, (name, SET, value))
    alter(t, GROUP, group, ("consumer.session.timeout.ms", APPEND, "5"))
    alter(t, GROUP, group, ("nonsense", DELETE, None))
    alter(t, GROUP, "", ("consumer.session.timeout.ms", SET, "50000"))
    alter(t, GROUP, group, ("consumer.session.timeout.ms", SET, "50000"), validate_only=True)
    describe(t, GROUP, group, OF_CONSUMERS[:1])
    alter(
        t, GROUP, group, ("consumer.session.timeout.ms", SET, "50000"), ("consumer.heartbeat.interval.ms", SET, "6000")
    )
    t.create(f"after-{len(t.topics)}")
    describe(t, GROUP, group, OF_CONSUMERS[:2])
    alter(
        t, GROUP, group, ("consumer.session.timeout.ms", DELETE, None), ("consumer.heartbeat.interval.ms", DELETE, None)
    )
    t.create(f"after-{len(t.topics)}")
    describe(t, GROUP, group, OF_CONSUMERS[:2])


@case("client-metrics-configs")
def client_metrics_configs(t: Tale) -> None:
    """Subscriptions: intervals, patterns, and names that there are."""
    name = t.name("m")
    describe(t, METRICS, name, OF_METRICS)
    describe(t, METRICS, "", OF_METRICS)
    for key, value in (
        ("interval.ms", "99"),
        ("interval.ms", "3600001"),
        ("interval.ms", "x"),
        ("match", "nothing"),
        ("match", "foo=bar"),
        ("match", "client_id=("),
        ("bla", ""),
    ):
        alter(t, METRICS, name, (key, SET, value))
    alter(t, METRICS, name, ("interval.ms", APPEND, "5"))
    alter(t, METRICS, "", ("interval.ms", SET, "1000"))
    alter(t, METRICS, name, ("interval.ms", SET, "1000"), ("metrics", SET, "a.,b."), ("match", SET, "client_id=a.*"))
    t.create(f"after-{len(t.topics)}")
    describe(t, METRICS, name, OF_METRICS)
    alter(t, METRICS, name, *((key, DELETE, None) for key in OF_METRICS))
    t.create(f"after-{len(t.topics)}")
    describe(t, METRICS, name, OF_METRICS)
