"""AWS IoT SQL: from text to one Python function, and the values that it works on.

    text ─ lexer ─ tokens ─ grammar, parser ─► syntax tree ─ expressions, emitter, compiler ─► function of an Event

`values` (over `decimals` and `payloads`) knows types, conversions and operators, `functions` the functions. Regular
expressions are in `patterns` (over `javaregex`), the patterns of times in `javatime`. Knows nothing of rules, files or
actions.
"""
