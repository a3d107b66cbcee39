"""Every private name of torch that this library uses: the versions it was checked on, and what is done without it.

Nothing else in the package touches ``torch._*`` or an attribute that begins with an underscore of a torch object.
"""

CHECKED = ("2.13.0", "2.14.1")
"""The versions of torch that the tests were run on."""
