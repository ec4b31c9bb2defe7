"""The same faults on other libraries, by the loops that they document: the table of `docs/peers.md`.

    python -m tools.peers --peers .peers/bin/python

`--peers` is a Python that has them installed, which `make peers` sees to.
"""
