"""What of the API is known here, and whether a document is as it says. Both notations: ours and Swagger 2.0."""

from __future__ import annotations

import functools
import os
import re
from pathlib import Path
from typing import Any

import yaml

__all__ = ["OURS", "Description", "published"]

_TYPES = {"string": str, "boolean": bool, "integer": int, "array": list, "object": dict}


class Description:
    """`schemas` in Swagger's words: type, enum, minimum, maximum, items, properties, required, $ref."""

    def __init__(self, paths: dict[str, Any], schemas: dict[str, Any]) -> None:
        self.paths = paths
        self.schemas = schemas

    def body(self, method: str, path: str) -> str | None:
        """The definition that the body of a call follows; None: no such call. Raises KeyError."""
        return self.operation(method, path)["body"]

    def operation(self, method: str, path: str) -> dict[Any, Any]:
        for template, operations in self.paths.items():
            if re.fullmatch(re.sub(r"\\\{\w+\\\}", "[A-Za-z0-9_]+", re.escape(template)), path):
                return dict(operations[method.lower()])
        raise KeyError(path)

    def faults(self, value: object, name: str) -> list[str]:
        """Where `value` is not what the definition `name` says; a field that it does not know is a fault, too."""
        return self._faults(value, {"$ref": f"#/definitions/{name}"}, "$")

    def _faults(self, value: object, schema: dict[str, Any], where: str) -> list[str]:
        if "$ref" in schema:
            schema = self.schemas[schema["$ref"].rpartition("/")[2]]
        kind = schema.get("type", "object")
        if not isinstance(value, _TYPES[kind]) or (kind == "integer" and isinstance(value, bool)):
            return [f"{where}: {value!r} is no {kind}"]
        if isinstance(value, dict):
            return self._object(value, schema, where)
        if isinstance(value, list):
            return [fault for index, item in enumerate(value) for fault in self._item(item, schema, where, index)]
        found = []
        words = ["Off" if word is False else word for word in schema.get("enum", [])]  # unquoted it is YAML's False
        if words and value not in words:
            found.append(f"{where}: {value!r} is not one of {words}")
        if isinstance(value, int) and not schema.get("minimum", value) <= value <= schema.get("maximum", value):
            found.append(f"{where}: {value} is out of bounds")
        return found

    def _item(self, item: object, schema: dict[str, Any], where: str, index: int) -> list[str]:
        return self._faults(item, schema["items"], f"{where}[{index}]")

    def _object(self, value: dict[str, Any], schema: dict[str, Any], where: str) -> list[str]:
        if schema.get("additionalProperties"):
            return []
        known = schema.get("properties", {})
        found = [f"{where}: without {name}" for name in schema.get("required", []) if name not in value]
        for name, inner in value.items():
            if name not in known:
                found.append(f"{where}: nobody knows {name}")
            else:
                found += self._faults(inner, known[name], f"{where}.{name}")
        return found


def _swagger(described: dict[str, Any]) -> Description:
    paths: dict[str, Any] = {}
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            bodies = [given["schema"] for given in operation.get("parameters", []) if given["in"] == "body"]
            answers = {code: _name(answer.get("schema")) for code, answer in operation["responses"].items()}
            answers.pop("default")
            paths.setdefault(path, {})[method] = {"body": _name(bodies[0]) if bodies else None, **answers}
    return Description(paths, described["definitions"])


def _name(schema: dict[str, Any] | None) -> str | None:
    if schema is None:
        return None
    return str(schema.get("$ref", "MmdsContentsObject")).rpartition("/")[2]


def _own(described: dict[str, Any]) -> Description:
    """Our notation: a field is a type, a definition, a list of words, bounds of a number, or items."""
    definitions = described["definitions"]

    def field(given: Any) -> dict[str, Any]:
        if isinstance(given, list):
            return {"type": "string", "enum": given}
        if isinstance(given, str):
            return {"$ref": f"#/definitions/{given}"} if given in definitions else {"type": given}
        if "items" in given:
            return {"type": "array", "items": field(given["items"])}
        return {"type": "integer", **given}

    schemas = {}
    for name, given in definitions.items():
        properties = {key: field(inner) for key, inner in given.get("properties", {}).items()}
        schemas[name] = {"type": "object", "properties": properties, "required": given.get("required", [])}
        if given.get("open"):
            schemas[name]["additionalProperties"] = True
    paths = {
        path: {method: {"body": None, **operation} for method, operation in methods.items()}
        for path, methods in described["paths"].items()
    }
    return Description(paths, schemas)


OURS = _own(yaml.safe_load(Path(__file__).with_name("description.yaml").read_text(encoding="utf-8")))


@functools.cache
def published() -> Description | None:
    """The API's own description, if DMS_EXECUTOR_FIRECRACKER_API names it."""
    path = os.environ.get("DMS_EXECUTOR_FIRECRACKER_API")
    return _swagger(yaml.safe_load(Path(path).read_text(encoding="utf-8"))) if path else None
