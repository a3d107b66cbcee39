"""Real silent bugs, each beside its correct twin: data for the certifiers."""
