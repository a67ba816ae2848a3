"""The pure core of Matrix: identifiers, events, signatures, authorisation, state resolution.

Nothing here reads a clock, a socket, a file or a random source: time, keys, randomness and lookups are arguments, and
verdicts are values.
"""
