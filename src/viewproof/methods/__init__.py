"""The registry of methods: each name with its class and a line for ``--help``.

Nothing heavy is imported here: the command line prints its help from `METHODS`, and a method's module is loaded when
the method is used. To add a method, write one file with a subclass of `viewproof.methods.base.Method` and add its line.
"""

import difflib
from importlib import import_module
from typing import Any, NamedTuple

from viewproof.errors import InvalidArgument


class Entry(NamedTuple):
    """Where a method is, as ``module:class``, and what it does, in a few words."""

    target: str
    summary: str


METHODS = {
    "mae": Entry("viewproof.methods.mae:MAEMethod", "reconstructs what the mask hides, of samples of any shape"),
    "ijepa": Entry("viewproof.methods.ijepa:IJEPAMethod", "predicts an EMA target encoder's tokens of hidden blocks"),
    "vicreg": Entry("viewproof.methods.vicreg:VICRegMethod", "compares two views, with a variance and covariance term"),
    "barlow": Entry("viewproof.methods.barlow:BarlowMethod", "compares two views by the correlation of coordinates"),
    "sigreg": Entry("viewproof.methods.sigreg:SIGRegMethod", "compares two views, with a test for normal embeddings"),
    "lejepa": Entry("viewproof.methods.lejepa:LeJEPAMethod", "compares large and small views, with sigreg's test"),
    "simclr": Entry("viewproof.methods.simclr:SimCLRMethod", "finds the other view of a sample among a batch's"),
    "dino": Entry("viewproof.methods.dino:DINOMethod", "distils an EMA teacher over crops and masked patches (iBOT)"),
    "data2vec": Entry(
        "viewproof.methods.data2vec:Data2VecMethod", "predicts an EMA teacher's layers of hidden patches"
    ),
    "mlm": Entry("viewproof.methods.mlm:MLMMethod", "predicts masked bytes of a text file (BERT)"),
    "supervised": Entry("viewproof.methods.supervised:SupervisedMethod", "learns the labels, as a baseline"),
}


def load(name: str) -> Any:
    """The `viewproof.methods.base.Method` subclass of a name; unknown ones raise `InvalidArgument`.

    >>> load("mea")
    Traceback (most recent call last):
    viewproof.errors.InvalidArgument: method='mea' is unknown; did you mean 'mae'?
    """
    if name not in METHODS:
        close = difflib.get_close_matches(name, METHODS, n=1)
        remedy = f"did you mean {close[0]!r}?" if close else f"pass one of {', '.join(METHODS)}"
        raise InvalidArgument(f"method={name!r} is unknown; {remedy}")
    module, _, attribute = METHODS[name].target.partition(":")
    return getattr(import_module(module), attribute)
