"""A shop, and the shipping service it works with: an application to read, run and start from."""
