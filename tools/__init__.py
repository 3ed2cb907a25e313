"""Development tools: the bench, the real Apache Kafka it is measured against, generators. Never imported by `logd`."""
