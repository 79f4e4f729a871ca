"""Models written as calls of classes, such as `nn.TransformerEncoderLayer(8, 2)`.

Parsed by `ast` and made piece by piece: classes of given names, their arguments as literals, lists
and further such calls. Nothing else of Python is run.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from tokennet.testing.zoo.source import unknown

MOST_CHARACTERS = 1000
Create = Callable[[type, list[Any], dict[str, Any]], Any]


def parsed(text: str) -> ast.expr:
    """The expression that a text is.

    Raises:
        ValueError: it is none.
    """
    if len(text) > MOST_CHARACTERS:
        raise ValueError(f"a model must have at most {MOST_CHARACTERS} characters, got {len(text)}")
    try:
        return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError) as error:
        told = getattr(error, "msg", error)
        raise ValueError(f"model must be Class or Class(arguments), got {text!r}: {told}") from None


def name_and_arguments(text: str) -> tuple[str, dict[str, Any]]:
    """The name and keyword arguments of `name` or `name(argument=literal)`.

    Raises:
        ValueError: the text has another form.

    >>> name_and_arguments("BertModel(hidden_size=8)")
    ('BertModel', {'hidden_size': 8})
    """
    node = parsed(text)
    if isinstance(node, ast.Name):
        return node.id, {}
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.args:
        raise ValueError(f"model must be name or name(argument=value), got {text!r}")
    return node.func.id, {k: _literal(v, text) for k, v in _keywords(node, text).items()}


def _keywords(call: ast.Call, text: str) -> dict[str, ast.expr]:
    found = {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg is not None}
    if len(found) < len(call.keywords):
        raise ValueError(f"model must not have ** in it, got {text!r}")
    return found


def construct(text: str, classes: Mapping[str, type], where: str, create: Create) -> Any:
    """The object of an expression.

    Args:
        classes: by their names, as written in the expression.
        where: what they are the classes of, for messages.
        create: makes an object of a class, its arguments and keyword arguments.

    Raises:
        ValueError: the text is anything else than calls of these classes, or a class raises.

    >>> from torch import nn
    >>> classes = {"Linear": nn.Linear}
    >>> construct("Linear(2, out_features=3)", classes, "nn", lambda c, a, k: c(*a, **k))
    Linear(in_features=2, out_features=3, bias=True)
    """

    def build(node: ast.expr, outermost: bool = False) -> Any:
        if isinstance(node, ast.Name | ast.Attribute):
            found = _class(node)
            return create(found, [], {}) if outermost else found
        if isinstance(node, ast.Call):
            arguments = [build(argument) for argument in node.args]
            keywords = {k: build(v) for k, v in _keywords(node, text).items()}
            return create(_class(node.func), arguments, keywords)
        if isinstance(node, ast.List | ast.Tuple):
            items = [build(item) for item in node.elts]
            return items if isinstance(node, ast.List) else tuple(items)
        return _literal(node, text)

    def _class(node: ast.expr) -> type:
        name = ast.unparse(node)
        if name not in classes:
            raise unknown(where, name, classes)
        return classes[name]

    node = parsed(text)
    if not isinstance(node, ast.Name | ast.Attribute | ast.Call):
        raise ValueError(f"model must be Class or Class(arguments), got {text!r}")
    return build(node, outermost=True)


def classes_of(module: Any, base: type, *prefixes: str) -> dict[str, type]:
    """The public subclasses of `base` in a module, by their names after each prefix."""
    return {
        f"{prefix}{name}": value
        for prefix in prefixes
        for name, value in vars(module).items()
        if inspect.isclass(value) and issubclass(value, base) and not name.startswith("_")
    }


def _literal(node: ast.expr, text: str) -> Any:
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        raise ValueError(
            f"model {text!r}: {ast.unparse(node)!r} is no class, number, string, list or call of "
            "a class"
        ) from None
