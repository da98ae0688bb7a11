"""Runs requests: a queue, one thread per device, and jobs that anyone may watch."""
