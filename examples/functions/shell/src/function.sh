handler() {
    echo "an event of ${#1} characters" >&2
    printf '{"echo": %s}' "$1"
}
