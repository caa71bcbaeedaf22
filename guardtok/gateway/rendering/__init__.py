"""Ids upstream: guardtok renders and encodes a chat itself and asks for a completion of ids.

A server that is sent text parses it once more, and with it whatever a user wrote. A server that is sent ids parses
nothing: what was proven of the ids holds at the model's input.
"""
