"""The ways in: HTTP routes, the service next door, and the command that loads a running shop and checks it."""
