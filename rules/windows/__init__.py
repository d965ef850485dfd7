"""GROUP BY … TUMBLING: messages gathered by key and span of time, and a row for each when it is over.

    statement ─ grouping ─► plan ─ state ─► rows, by way of `aggregates`      aggregation: the windows of all rules

What must survive a restart is handed to the side that runs the rules, and taken back from it.
"""
