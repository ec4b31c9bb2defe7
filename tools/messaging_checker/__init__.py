"""Judges what a torture of the messaging has left behind: the store, the topic, both ledgers, the clients' history.

It imports nothing of the framework, and nothing of the torture: only the standard library and the drivers asyncpg and
aiokafka. What it knows are tables, headers and promises.
"""
