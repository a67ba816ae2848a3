"""The far end of a line to a box, for programs that are no box: the key that they keep, how they are paired, the line itself."""
