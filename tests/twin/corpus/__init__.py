"""The hand-written corpus: one module for each noun. Importing it fills `tale.CASES`."""

from . import groups, malformed, metadata, offsets, produce, reading, topics

__all__ = ["groups", "malformed", "metadata", "offsets", "produce", "reading", "topics"]
