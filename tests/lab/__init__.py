"""The laboratory: true bit rates, network namespaces, stock peers and clients, crashes. Used by tests, and by hand.

Nothing here is a dependency of the product. Each part is a plain blocking class, so that a fixture of any scope may own
it, and gives trio tests an async form of whatever takes long. Programs are started from the main thread and die with
it (see `programs`).
"""
