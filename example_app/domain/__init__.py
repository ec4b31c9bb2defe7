"""What the shop knows and decides. Nothing here knows of databases, brokers or HTTP."""
