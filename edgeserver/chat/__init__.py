"""A terminal client: rooms, unread, reading and writing, for who has a serial cable, an SSH session or a laptop.

It needs a Matrix server and an `Exchange` that leads there, of the house only what both ends of a compact screen share (`edgeserver.thin`):
`model`, `events`, `compact`, `sliding`, `classic`, `commands`, `visible` and `view` are pure, `session` is what runs, `plain` and
`screen` are two faces of `conversation`.
"""
