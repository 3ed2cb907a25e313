"""The hand-written corpus: one module for each noun. Importing it fills `tale.CASES`."""

from . import groups, malformed, metadata, produce, reading, topics

__all__ = ["groups", "malformed", "metadata", "produce", "reading", "topics"]
