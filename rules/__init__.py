"""IoT SQL, rules files and the engine: which rules hear a message, and what they make of it.

Pure: values in, values out. Will not read files (`core.files` does), run actions (the edge and the cloud do),
or know the time (an `Event` brings it). The way of a rule:

    text ─ lexer ─► tokens ─ parser ─► syntax tree ─ compiler ─► one Python function
    file ─ document ─► nodes with positions ─ files ─► Rule(statement, actions) ─ engine ─► RuleSet

Start reading at `rules.engine`; what the daemons need is there, in `rules.files.parse` and in
`rules.actions`.
"""
