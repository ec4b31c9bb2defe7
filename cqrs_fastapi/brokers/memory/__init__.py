"""The broker that lives in the process: nothing leaves it, and a kill loses nothing."""
