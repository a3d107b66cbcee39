"""How data flows through a running program: labels, dependence, isolation from the caller."""
