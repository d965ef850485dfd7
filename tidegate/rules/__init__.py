"""`tidegate rules`: check rules files before they ship, test them, try statements, and see why a rule did what it did.

Nothing here touches a running daemon: what is checked and evaluated are files and messages given to the command, with
the same code that the daemons run. Each command has a module; `options` has what they share.
"""

import typer

from tidegate.rules import checking, evaluating, explaining, exporting, testing

app = typer.Typer(no_args_is_help=True, help="Check, test, try, explain and export rules.")
app.command("check")(checking.check)
app.command("test")(testing.run_tests)
app.command("explain")(explaining.explain)
app.command("eval")(evaluating.evaluate)
app.command("export")(exporting.export)
app.command("schema")(exporting.schema)
