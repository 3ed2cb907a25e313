"""The hand-written corpus: one module for each noun. Importing it fills `tale.CASES`."""

from . import administration, groups, malformed, metadata, produce, reading, topics

__all__ = ["administration", "groups", "malformed", "metadata", "produce", "reading", "topics"]
