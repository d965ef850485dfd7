"""`tidegate functions`: Lambda handlers on this machine: deploy them, call them, see what they do, take them back.

What is deployed lies on disk (`functions.packages.library`) and can be changed without a daemon; a daemon that runs is
told. Each group of commands has a module; `options` has what they share.
"""

import typer

from tidegate.functions import changing, dead, deploying, invoking, listing, logging

app = typer.Typer(no_args_is_help=True, help="Lambda functions: deploy, call, watch and roll back.")
app.command("deploy")(deploying.deploy)
app.command("list")(listing.list_functions)
app.command("show")(listing.show)
app.command("invoke")(invoking.invoke)
app.command("logs")(logging.show_logs)
app.command("status")(listing.status)
app.command("rollback")(changing.rollback)
app.command("alias")(changing.move_alias)
app.command("remove")(changing.remove)
app.add_typer(dead.app, name="dead")
