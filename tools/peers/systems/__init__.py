"""One module for each system, run as a program: `fill EVENTS STREAMS`, `relay`, `consume`.

PEERS_DATABASE, PEERS_KAFKA, PEERS_TOPIC    where
PEERS_FAULT     `stream-error`: one transient error per stream; `kill-after-ack`: once
PEERS_MARK      a file that is there when the fault was done
PEERS_OUT       a file that gets a line for each message that a handler is done with
PEERS_FAILS     `second:1`: each second message fails once; `tenth:8`: each tenth one fails eight times
"""
