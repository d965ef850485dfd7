"""`Ref` and the `Fn::` functions of provisioning templates: checked when a template is read, evaluated per device.

What AWS IoT Core's provisioning templates have (AWS IoT Core Developer Guide, "Provisioning templates"): Ref, Fn::Join,
Fn::Select, Fn::Split, Fn::Sub, Fn::FindInMap. All of them make text, Fn::Split makes a list of texts. Values in, values
out; knows nothing about things and certificates.

Bounds: no text that a function makes is longer than `TEXT_CHARS_MAX`, so nested functions cannot unfold a short
parameter into one that fills the memory.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from core.errors import TidegateError

TEXT_CHARS_MAX = 65_536  # far more than any name, attribute or URL
LIST_MAX = 1_000  # texts that Fn::Split may make

Scope: TypeAlias = Mapping[str, str]  # the value of each parameter
Text: TypeAlias = Callable[[Scope], str]
Texts: TypeAlias = Callable[[Scope], list[str]]
Value: TypeAlias = Callable[[Scope], Any]

_VARIABLE = re.compile(r"\$\{(!?)([^{}]*)\}")


class UnusableParameter(TidegateError):
    """What a device gave, or did not give, for a parameter cannot be used in the template."""


class Compiler:
    """Turns what stands in a template into functions of the parameters; `problems` is what is wrong with it.

    `parameters` are the names that Ref and Fn::Sub may use, `mappings` the template's Mappings.
    """

    def __init__(self, parameters: frozenset[str], mappings: Mapping[str, Any]) -> None:
        self.problems: list[str] = []
        self._parameters = parameters
        self._mappings = mappings
        self._functions: dict[str, Callable[[Any, str], Text]] = {
            "Ref": self._ref,
            "Fn::Join": self._join,
            "Fn::Select": self._select,
            "Fn::Sub": self._sub,
            "Fn::FindInMap": self._find_in_map,
        }

    def value(self, node: Any, path: str) -> Value:
        """Any JSON value, with functions anywhere in it."""
        if isinstance(node, dict):
            name = self._function_in(node)
            if name == "Fn::Split":
                return self._split(node[name], f"{path}.{name}")
            if name is not None:
                return self.text(node, path)
            if any(str(key).startswith("Fn::") for key in node):
                return self._wrong(path, "a function stands alone in its { }")
            members = {key: self.value(below, f"{path}.{key}") for key, below in node.items()}
            return lambda scope: {key: value(scope) for key, value in members.items()}
        if isinstance(node, list):
            items = [self.value(below, f"{path}[{index}]") for index, below in enumerate(node)]
            return lambda scope: [value(scope) for value in items]
        return lambda _: node

    def text(self, node: Any, path: str) -> Text:
        """Text, or a function that makes text."""
        if isinstance(node, str):
            return lambda _: node
        name = self._function_in(node)
        if name is None:
            kind = "quotes around it" if isinstance(node, int | float) else "text or a function"
            return self._wrong(path, f"must be text, or one of {self._known()}; {kind} is missing")
        if name == "Fn::Split":
            return self._wrong(path, "Fn::Split makes a list; take one text of it with Fn::Select")
        if name not in self._functions:
            return self._wrong(path, f"there is no function {name}; there are {self._known()}")
        return self._functions[name](node[name], f"{path}.{name}")

    def _texts(self, node: Any, path: str) -> Texts:
        """A list of texts, or Fn::Split."""
        if isinstance(node, list):
            items = [self.text(item, f"{path}[{index}]") for index, item in enumerate(node)]
            return lambda scope: [item(scope) for item in items]
        if self._function_in(node) == "Fn::Split":
            return self._split(node["Fn::Split"], f"{path}.Fn::Split")
        self._wrong(path, "must be a list of texts, or Fn::Split")
        return lambda _: []

    # -- the functions ------------------------------------------------------------------------------------------------

    def _ref(self, node: Any, path: str) -> Text:
        if not isinstance(node, str) or node not in self._parameters:
            return self._wrong(path, f"{str(node)[:80]!r} is no parameter; declare it in Parameters")
        return lambda scope: scope[node]

    def _join(self, node: Any, path: str) -> Text:
        if not isinstance(node, list) or len(node) != 2 or not isinstance(node[0], str):
            return self._wrong(path, 'is [delimiter, [texts]], as in ["-", ["sensor", {"Ref": "SerialNumber"}]]')
        delimiter, parts = node[0], self._texts(node[1], f"{path}[1]")

        def join(scope: Scope) -> str:
            texts = parts(scope)
            if sum(map(len, texts)) + len(delimiter) * len(texts) > TEXT_CHARS_MAX:
                raise UnusableParameter(f"{path} makes a text of more than {TEXT_CHARS_MAX:,} characters")
            return delimiter.join(texts)

        return join

    def _select(self, node: Any, path: str) -> Text:
        if not isinstance(node, list) or len(node) != 2 or not re.fullmatch(r"\d{1,4}", str(node[0])):
            return self._wrong(path, 'is [index, [texts]], as in [0, {"Fn::Split": [":", {"Ref": "Address"}]}]')
        index, texts = int(node[0]), self._texts(node[1], f"{path}[1]")

        def select(scope: Scope) -> str:
            found = texts(scope)
            if index >= len(found):
                raise UnusableParameter(f"{path}: there is no text number {index}, only {len(found)} from 0 on")
            return found[index]

        return select

    def _split(self, node: Any, path: str) -> Texts:
        if not isinstance(node, list) or len(node) != 2 or not isinstance(node[0], str) or not node[0]:
            self._wrong(path, 'is [delimiter, text], as in ["-", {"Ref": "SerialNumber"}]')
            return lambda _: []
        delimiter, text = node[0], self.text(node[1], f"{path}[1]")

        def split(scope: Scope) -> list[str]:
            whole = text(scope)
            if whole.count(delimiter) >= LIST_MAX:
                raise UnusableParameter(f"{path} makes more than {LIST_MAX:,} texts")
            return whole.split(delimiter)

        return split

    def _sub(self, node: Any, path: str) -> Text:
        template, given = node if isinstance(node, list) and len(node) == 2 else (node, {})
        if not isinstance(template, str) or not isinstance(given, dict):
            return self._wrong(path, 'is "text with ${Parameter}", or ["text with ${name}", {name: text}]')
        variables = {name: self.text(below, f"{path}[1].{name}") for name, below in given.items()}
        for literal, name in _VARIABLE.findall(template):
            if not literal and name not in variables and name not in self._parameters:
                self._wrong(path, f"${{{name[:80]}}} is no parameter; declare it in Parameters")

        def substitute(scope: Scope) -> str:
            room = TEXT_CHARS_MAX - len(template)

            def replacement(match: re.Match[str]) -> str:
                nonlocal room
                literal, name = match.groups()
                text = f"${{{name}}}" if literal else variables[name](scope) if name in variables else scope[name]
                room -= len(text)
                if room < 0:
                    raise UnusableParameter(f"{path} makes a text of more than {TEXT_CHARS_MAX:,} characters")
                return text

            return _VARIABLE.sub(replacement, template)

        return substitute

    def _find_in_map(self, node: Any, path: str) -> Text:
        if not isinstance(node, list) or len(node) != 3 or not isinstance(node[0], str):
            return self._wrong(path, "is [map, first key, second key]")
        table = self._mappings.get(node[0])
        if table is None:
            known = ", ".join(self._mappings) or "none"
            return self._wrong(path, f"there is no map {node[0][:80]!r} in Mappings; there are: {known}")
        first, second = self.text(node[1], f"{path}[1]"), self.text(node[2], f"{path}[2]")

        def find(scope: Scope) -> str:
            keys = first(scope), second(scope)
            found = table.get(keys[0], {}).get(keys[1])
            if found is None:
                raise UnusableParameter(f"the map {node[0]} has no entry {keys[0][:80]!r}, {keys[1][:80]!r}")
            return str(found)

        return find

    # -- faults -------------------------------------------------------------------------------------------------------

    def _function_in(self, node: Any) -> str | None:
        """The name of the function that `node` calls, None when it calls none."""
        if not isinstance(node, dict) or len(node) != 1:
            return None
        (name,) = node
        return str(name) if name == "Ref" or str(name).startswith("Fn::") else None

    def _known(self) -> str:
        return ", ".join([*self._functions, "Fn::Split"])

    def _wrong(self, path: str, words: str) -> Text:
        self.problems.append(f"{path}: {words}")
        return lambda _: ""

