"""The parser's hold on a text: the next token, what to expect of it, and how to say that it is another."""

from rules.errors import SqlError
from rules.sql.lexer import Token, token


class Tokens:
    """A place in a text: `next` is the token there, `end` where the last taken one ended."""

    def __init__(self, text: str, offset: int) -> None:
        self.text = text
        self.next = token(text, offset)
        self.end = offset

    def take(self) -> Token:
        """The next token, which is then behind us."""
        taken = self.next
        self.end = taken.end
        self.next = token(self.text, taken.end)
        return taken

    def sees(self, mark: str) -> bool:
        """Whether `mark` is next."""
        return self.next.kind == "mark" and self.next.text == mark

    def sees_word(self, word: str) -> bool:
        """Whether `word`, in upper case, is next in any case."""
        return self.next.kind == "name" and self.next.word == word

    def after_next(self) -> Token:
        """The token after the next one."""
        return self.after(self.next)

    def after(self, earlier: Token) -> Token:
        """The token after `earlier`."""
        return token(self.text, earlier.end)

    def expect(self, mark: str, what: str) -> Token:
        """The next token, which must be `mark`. It is not taken, so what follows it need not be SQL."""
        if not self.sees(mark):
            raise self.wrong(f"expected {what}, found {self.found()}")
        return self.next

    def mark(self, mark: str, what: str) -> None:
        """Take `mark`."""
        self.expect(mark, what)
        self.take()

    def keyword(self, word: str, complaint: str) -> None:
        """Take the keyword `word`."""
        if not self.sees_word(word):
            raise self.wrong(f"{complaint}, found {self.found()}")
        self.take()

    def name(self, complaint: str) -> str:
        """Take a name, which may be a keyword."""
        if self.next.kind != "name":
            raise self.wrong(f"{complaint}, found {self.found()}")
        return self.take().text

    def wrong(self, message: str, at: int | None = None) -> SqlError:
        """The error for the next token, or for character `at`."""
        return SqlError.at(self.text, self.next.start if at is None else at, message)

    def found(self) -> str:
        """The next token, for a message."""
        return "the end" if self.next.kind == "end" else repr(self.next.text[:40])
