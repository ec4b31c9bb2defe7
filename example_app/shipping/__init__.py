"""The second service: it sends parcels. It knows the shop only by the events that the shop publishes."""
