"""Rules tried without a daemon: what a message would set off, and why; tests beside rules, and recorded traffic.

`scenarios` makes events of what people write down, `firings` says what would fire, `trials` and `verdicts` are test
files and what became of them, `traffic` reads recordings, `explanations` takes a WHERE apart.
"""
