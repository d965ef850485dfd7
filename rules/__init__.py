"""Rules: which of them hear a message, and what they make of it. The same on the edge and in the cloud.

Pure: values in, values out. Will not read files (`core.files` does), run actions (the edge and the cloud do), or know
the time or be random (an `Event` brings both). The way of a rule:

    file ─ files ─► Rule(statement, actions) ─ engine ─► RuleSet ─ match(topic) ─► Rule.run(event)
                      ▲
              sql ────┘  a statement is one compiled function

| package | |
|---|---|
| `sql` | the language |
| `actions` | the parameters of each action, checked and typed |
| `files` | rules files in all their forms, with a place for every fault; their schema; export to AWS |
| `windows` | GROUP BY |
| `advice` | what can be told of rules that would run |
| `rehearsal` | rules tried without a daemon |

Start reading at `rules.engine`; what the daemons need is there, in `rules.files` and in `rules.failures`.
"""
