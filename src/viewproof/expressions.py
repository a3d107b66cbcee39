"""Rules as text, for the command line and configuration files: the same words as in Python."""

import ast
import difflib
import sys
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from typing import Any

from viewproof import masks
from viewproof.errors import InvalidArgument
from viewproof.masks import Rule

_RULES = {
    name: value
    for name, value in vars(masks).items()
    if isinstance(value, type) and issubclass(value, Rule) and value not in (Rule, masks.RandomRule)
}


LONGEST = 1000
"""Characters of a rule, at most: what is longer is no rule that a person wrote."""
DEEPEST = 50
"""Levels of a rule, at most: every use of a rule goes down them, far from where its text is read."""


def parse_rule(text: str, *, allow_import: bool = False) -> Rule:
    """The rule that a text such as ``~Rotating(PatchMask(4, 4, period=4, offset=0))`` stands for.

    Names are the public rules; with ``allow_import`` also ``package.module.Rule`` for your own, whose module is then
    imported and runs. Arguments are literals or rules, and ``~`` complements. ``parse_rule(repr(rule)) == rule`` for
    every public rule. Anything else raises `InvalidArgument`.

    >>> parse_rule("~PatchMask(2, 2, period=4, offset=1)")
    ~PatchMask(patch_h=2, patch_w=2, period=4, offset=1)
    """
    if not isinstance(text, str) or len(text) > LONGEST:
        raise InvalidArgument(f"rule {str(text)[:40]!r}... must be a text of at most {LONGEST} characters")
    try:
        rule = _evaluate(ast.parse(text.strip(), mode="eval").body, text, allow_import, DEEPEST)
    except SyntaxError as error:
        raise InvalidArgument(f"rule {text!r} is not an expression: {error.msg}") from error
    except (RecursionError, MemoryError) as error:
        raise InvalidArgument(f"rule {text[:40]!r}... must be nested at most {DEEPEST} deep") from error
    except (AttributeError, TypeError, ValueError) as error:
        raise InvalidArgument(f"rule {text!r}: {error}") from error
    if not isinstance(rule, Rule):
        raise InvalidArgument(f"rule {text!r} is not a rule; write for instance PatchMask(4, 4, period=4, offset=0)")
    return rule


def imported(module: str, name: str) -> Any:
    """The object ``name`` of a module of the user's own; modules in the current folder are found.

    A module that cannot be imported, whatever it raises, and a name that it lacks raise `InvalidArgument`.
    """
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        loaded = import_module(module)
    except Exception as error:
        raise InvalidArgument(f"{module} cannot be imported: {type(error).__name__}: {error}") from error
    try:
        return attrgetter(name)(loaded)
    except AttributeError as error:
        raise InvalidArgument(f"{module}: {error}") from error


def _evaluate(node: ast.expr, text: str, allow_import: bool, levels: int) -> object:
    if not levels:
        raise RecursionError
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Invert):
        rule = _evaluate(node.operand, text, allow_import, levels - 1)
        if isinstance(rule, Rule):
            return ~rule
        raise InvalidArgument(f"rule {text!r}: ~ complements a rule, not {rule!r}")
    if isinstance(node, ast.Call):
        arguments = [_evaluate(argument, text, allow_import, levels - 1) for argument in node.args]
        keywords = {
            word.arg: _evaluate(word.value, text, allow_import, levels - 1) for word in node.keywords if word.arg
        }
        name = ast.unparse(node.func)
        kind = _RULES.get(name)
        if kind is None and "." in name:
            if not allow_import:
                raise InvalidArgument(
                    f"rule {text!r} would run the module of {name}; pass --allow-import if you trust it"
                )
            kind = imported(*name.rpartition(".")[::2])
        if not (isinstance(kind, type) and issubclass(kind, Rule)):
            near = difflib.get_close_matches(name, _RULES, n=1)
            hint = f"did you mean {near[0]}" if near else f"the rules are {', '.join(sorted(_RULES))}"
            raise InvalidArgument(f"rule {text!r}: no rule is called {name!r}; {hint}")
        return kind(*arguments, **keywords)
    try:
        return ast.literal_eval(node)
    except ValueError as error:
        raise InvalidArgument(f"rule {text!r}: {ast.unparse(node)} is neither a literal nor a rule") from error
