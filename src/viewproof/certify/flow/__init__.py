"""How data flows through a running program: labels of coordinates, dependence, isolation from the caller."""
