"""The tests of logd. They mirror the packages of ``logd``; ``clients`` and ``process`` drive the whole server."""
