"""What can go wrong when a server is asked for."""


class ServerError(Exception):
    """A server could be tried and did not come up, or went away; the message ends with the tail of its log."""


class ServerUnavailableError(ServerError):
    """Nothing on this machine can start such a server; the message names what was looked for."""
