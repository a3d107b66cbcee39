"""Real silent bugs, each beside its correct twin: what the certifiers must catch, and where they must stay silent."""
