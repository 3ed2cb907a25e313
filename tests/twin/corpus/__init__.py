"""The hand-written corpus: one module for each noun. Importing it fills `tale.CASES`."""

from . import (
    administration,
    consumer_groups,
    groups,
    malformed,
    metadata,
    produce,
    reading,
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
    "produce",
    "reading",
    "topics",
    "transactional_records",
    "transactions",
]
