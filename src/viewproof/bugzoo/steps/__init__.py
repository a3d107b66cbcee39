"""Silent bugs as whole training steps in the styles of real code, beside correct twins."""
