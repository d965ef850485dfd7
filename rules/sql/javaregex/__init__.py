"""Java regular expressions (`java.util.regex.Pattern`) as trees, and those trees as other engines spell them.

    reader      pattern text → tree; everything that Java refuses is refused here
    properties  what stands behind \\d, \\h, \\p{Alpha}, \\p{IsLatin}, \\p{javaWhitespace}
    sets        sets of characters: union, intersection, complement, case
    nodes       the tree
    writers     tree → RE2, or → `regex`
    engines     those two, each within its bound on time

Flags, escapes and line terminators are resolved by the reader, so a tree means the same to every engine.
"""
