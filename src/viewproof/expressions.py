"""Rules as text, for the command line and configuration files: the same words as in Python."""

import ast
import difflib
from importlib import import_module

from viewproof import masks
from viewproof.errors import InvalidArgument
from viewproof.masks import Rule

_RULES = {name: value for name, value in vars(masks).items() if isinstance(value, type) and issubclass(value, Rule)}


def parse_rule(text: str) -> Rule:
    """The rule that a text such as ``~Rotating(PatchMask(4, 4, period=4, offset=0))`` stands for.

    Names are the public rules, or ``package.module.Rule`` for your own; arguments are literals or rules, and ``~``
    complements. ``parse_rule(repr(rule)) == rule`` for every public rule.

    >>> parse_rule("~PatchMask(2, 2, period=4, offset=1)")
    ~PatchMask(patch_h=2, patch_w=2, period=4, offset=1)
    """
    try:
        rule = _evaluate(ast.parse(text.strip(), mode="eval").body, text)
    except SyntaxError as error:
        raise InvalidArgument(f"rule {text!r} is not an expression: {error.msg}") from error
    except TypeError as error:
        raise InvalidArgument(f"rule {text!r}: {error}") from error
    if not isinstance(rule, Rule):
        raise InvalidArgument(f"rule {text!r} is not a rule; write for instance PatchMask(4, 4, period=4, offset=0)")
    return rule


def _evaluate(node: ast.expr, text: str) -> object:
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Invert):
        rule = _evaluate(node.operand, text)
        if isinstance(rule, Rule):
            return ~rule
        raise InvalidArgument(f"rule {text!r}: ~ complements a rule, not {rule!r}")
    if isinstance(node, ast.Call):
        arguments = [_evaluate(argument, text) for argument in node.args]
        keywords = {word.arg: _evaluate(word.value, text) for word in node.keywords if word.arg}
        name = ast.unparse(node.func)
        kind = _RULES.get(name)
        if kind is None and "." in name:
            module, _, attribute = name.rpartition(".")
            try:
                kind = getattr(import_module(module), attribute)
            except (ImportError, AttributeError) as error:
                raise InvalidArgument(f"rule {text!r}: {error}") from error
        if not (isinstance(kind, type) and issubclass(kind, Rule)):
            near = difflib.get_close_matches(name, _RULES, n=1)
            hint = f"did you mean {near[0]}" if near else f"the rules are {', '.join(sorted(_RULES))}"
            raise InvalidArgument(f"rule {text!r}: no rule is called {name!r}; {hint}")
        return kind(*arguments, **keywords)
    try:
        return ast.literal_eval(node)
    except ValueError as error:
        raise InvalidArgument(f"rule {text!r}: {ast.unparse(node)} is neither a literal nor a rule") from error
