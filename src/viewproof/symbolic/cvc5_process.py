"""The script of a process in which cvc5 decides goals; it imports nothing else of this package.

Each line of its input is JSON, ``[SMT-LIB text, cvc5's options, seconds]``; each line of its output the JSON string
that answers it: ``sat``, ``unsat``, or the reason why neither is known. cvc5 keeps Python from running while it works:
in the caller's own process neither Ctrl-C nor the death of a parent would be heard.
"""

import json
import signal
import sys
from collections.abc import Mapping

import cvc5


def answer(text: str, options: Mapping[str, str], seconds: float) -> str:
    """``sat``, ``unsat`` or a reason."""
    solver = cvc5.Solver(cvc5.TermManager())
    solver.setOption("tlimit-per", str(int(1000 * seconds)))
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
    if result.isUnknown():
        return str(result.getUnknownExplanation()).removeprefix("UnknownExplanation.").lower()
    return "sat" if result.isSat() else "unsat"


if __name__ == "__main__":
    # Ctrl-C kills it at once, and so does the alarm where cvc5 overruns its limit: no Python handler could run.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    for line in sys.stdin:
        goal, how, limit = json.loads(line)
        signal.setitimer(signal.ITIMER_REAL, limit + 1)
        print(json.dumps(answer(goal, how, limit)), flush=True)
        signal.setitimer(signal.ITIMER_REAL, 0)
