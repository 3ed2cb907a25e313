"""The twin: the same requests to logd and to a real Apache Kafka, and the answers compared field by field."""
