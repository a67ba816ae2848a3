"""The store: one SQLite file, one writer, small functions that take a transaction. All SQL of the program lives here."""
