"""What advice is: something that a rule which can run may get wrong, where it stands, and what to write instead."""

from dataclasses import dataclass

from rules.actions.fields import Place

SQL: Place = ("sql",)


@dataclass(frozen=True, slots=True)
class Finding:
    """`code` names the kind, for programs. `offset` is the character of the text at `place`, None for its beginning."""

    rule: str
    code: str
    place: Place
    message: str
    suggestion: str = ""
    offset: int | None = None

    def __str__(self) -> str:
        return f"{self.message}; {self.suggestion}" if self.suggestion else self.message
