"""`python -m cqrs_fastapi.cli`, where the command is not installed."""

from cqrs_fastapi.cli.main import main

main()
