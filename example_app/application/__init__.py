"""What the shop can be asked, and how it answers: messages, their handlers, and the ports that adapters fill."""
