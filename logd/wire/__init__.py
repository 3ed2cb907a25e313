"""Bytes to values and back, and nothing else: frames, protocol messages, record batches, compression."""
