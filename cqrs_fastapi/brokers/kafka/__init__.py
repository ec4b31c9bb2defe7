"""The adapter for Apache Kafka 2.1 and later, by aiokafka."""
