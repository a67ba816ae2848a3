"""The compact client protocol: what a box and a program that shows text to a person say to each other over a thin line (pure)."""
