"""logd: a Kafka-style, append-only log server on trio."""

__version__ = "0.1.0"
