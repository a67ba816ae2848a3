"""Other homeservers: finding them and their keys, sending to them, joining their rooms, taking their transactions."""
