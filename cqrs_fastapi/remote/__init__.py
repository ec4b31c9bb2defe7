"""Commands and queries over the broker: topics bound to requests, replies, and the client that waits for them."""
