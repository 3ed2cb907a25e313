"""The hand-written corpus: one module for each noun. Importing it fills `tale.CASES`."""

from . import (
    administration,
    consumer_groups,
    groups,
    malformed,
    metadata,
    migration,
    produce,
    reading,
    resource_configs,
    topics,
    transactional_records,
    transactions,
)

__all__ = [
    "administration",
    "consumer_groups",
    "groups",
    "malformed",
    "metadata",
    "migration",
    "produce",
    "reading",
    "resource_configs",
    "topics",
    "transactional_records",
    "transactions",
]
