"""A process of its own in which cvc5 settles goals; run as a script, it imports nothing else of this package.

Each line of its input is JSON, ``[SMT-LIB text, seconds]``; each line of its output the JSON string that answers it:
``sat``, ``unsat``, or the reason why neither is known. cvc5 keeps Python from running while it works, so that in the
caller's own process neither Ctrl-C nor the death of a parent would be heard.
"""

import json
import signal
import sys
from collections.abc import Mapping

import cvc5

ATTEMPTS: tuple[tuple[float, Mapping[str, str]], ...] = (
    (0.01, {}),
    # Cylindrical algebraic coverings alone: polynomials over the reals, which the usual linearization may never finish.
    (0.05, {"nl-cov": "true", "nl-ext": "none"}),
    (0.94, {}),
)
"""Shares of the time, and cvc5's options."""


def answer(text: str, seconds: float) -> str:
    """``sat``, ``unsat`` or a reason."""
    reason = ""
    for share, options in ATTEMPTS:
        solver = cvc5.Solver(cvc5.TermManager())
        solver.setOption("tlimit-per", str(int(1000 * seconds * share)))
        for name, value in options.items():
            solver.setOption(name, value)
        try:
            parser = cvc5.InputParser(solver)
            parser.setStringInput(cvc5.InputLanguage.SMT_LIB_2_6, text, "goal")
            symbols = parser.getSymbolManager()
            while not (command := parser.nextCommand()).isNull():
                command.invoke(solver, symbols)
            result = solver.checkSat()
        except RuntimeError as error:
            return f"not expressible: {' '.join(str(error).split())}"
        if not result.isUnknown():
            return "sat" if result.isSat() else "unsat"
        reason = str(result.getUnknownExplanation()).removeprefix("UnknownExplanation.").lower()
    return f"{reason} after {seconds:g} s"


if __name__ == "__main__":
    # Killed at once by Ctrl-C, and by the alarm if cvc5 does not keep to its time, since Python cannot run a handler.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    for line in sys.stdin:
        goal, limit = json.loads(line)
        signal.alarm(int(limit) + 10)
        print(json.dumps(answer(goal, limit)), flush=True)
        signal.alarm(0)
