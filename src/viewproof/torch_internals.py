"""Every private name of torch that this library uses: the versions it was checked on, and what is done without it.

Nothing else in the package touches ``torch._*`` or an attribute that begins with an underscore of a torch object.
"""

from torch.utils._pytree import tree_leaves as tree_leaves
from torch.utils._pytree import tree_map_only as tree_map_only

CHECKED = ("2.13.0", "2.14.1")
"""The versions of torch that the tests were run on."""

# `tree_leaves` and `tree_map_only`: used by many projects and not documented. Checked on CHECKED. Without them
# importing `viewproof.certify.target` fails.
