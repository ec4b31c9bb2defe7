"""PostgreSQL and Kafka for tests and demonstrations, without containers.

    python -m tools.servers start [postgres] [kafka]
    python -m tools.servers status | env | stop | restart

The servers are private to the checkout: ports and data of their own, state in `.servers/`, no trace after `stop`.

    POSTGRES_URL, KAFKA_BOOTSTRAP   a server that runs already, used as it is and never stopped
    CQRS_SERVERS                    another folder for the state
    CQRS_SERVERS_POSTGRES           only `system` or only `wheel`
    CQRS_SERVERS_KAFKA              only `apache` or only `mock`
"""

from tools.servers.errors import ServerError, ServerUnavailableError
from tools.servers.fleet import Servers
from tools.servers.state import NAMES, Name, Server

__all__ = ["NAMES", "Name", "Server", "ServerError", "ServerUnavailableError", "Servers"]
