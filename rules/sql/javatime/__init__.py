"""Times as text, by the patterns of two Java libraries, in English.

    printing   Joda-Time patterns: a moment → text (parse_time)
    patterns   java.time patterns: pattern text → what to read, one after the other (time_to_epoch)
    elements   what is read: numbers, names, offsets, zones
    resolving  what has been read → a moment
    zones      time zones and their names

A moment is in milliseconds since 1970 in UTC. Years are 1 to 9999, which is what `datetime` knows.
"""
