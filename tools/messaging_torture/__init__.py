"""Tortures the messaging: real processes on a PostgreSQL and an Apache Kafka of its own, faults at random, under load.

    python -m tools.messaging_torture --seed 7 --seconds 60
    python -m tools.messaging_torture --mutations

What is left behind is judged by `tools.messaging_checker`, a process of its own that knows nothing of the framework.
"""
