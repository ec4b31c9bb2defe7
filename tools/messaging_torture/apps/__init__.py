"""The two services that are tortured."""
