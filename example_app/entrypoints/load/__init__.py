"""Loads a running shop with a catalogue and orders, and checks that nothing it promised was lost, repeated or mixed up.

It needs nothing but what the shop itself needs, and speaks to it by HTTP alone.
"""
