"""The bench: the same foreign clients against logd and Apache Kafka in turn, on one machine; see docs/benchmarks.md."""
