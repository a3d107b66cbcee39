"""Imported by the process that workers are copies of: what torch loads at its first captures.

No solver runs here: every copy starts with a fresh one.
"""

from contextlib import suppress
from functools import partial

import viewproof as vp
from viewproof.symbolic.capture import CaptureFailed, TensorInput, capture
from viewproof.theorems.tensors.samples import IMAGE_SAMPLE, VECTOR_SAMPLE

for _subject, _program in ((VECTOR_SAMPLE, vp.vector_mae_sample), (IMAGE_SAMPLE, vp.image_patch_mae_sample)):
    _hints = {n: (2, 3, 4, 5)[: k.rank] if isinstance(k, TensorInput) else 3 for n, k in _subject.signature.items()}
    with suppress(CaptureFailed):  # whoever needs this capture makes it again, and says so
        capture(partial(_subject.observe, _program), _subject.signature, _hints)
