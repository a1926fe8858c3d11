"""Other libraries from PyPI, draining the same number of jobs on the same server.

Each runs in an environment of its own, through its public interface, once with its
defaults and once with what its documentation advises for throughput.
"""
