"""Holds every answer against the server's own OpenAPI description."""

import re

import jsonschema


class Contract:
    def __init__(self, described):
        self.described = described
        self.paths = [(re.compile(re.sub(r"{[^}]*}", "[^/]+", path)), path) for path in described["paths"]]

    def operation(self, method, path):
        """The description of a call, or None for a path or method that is none."""
        for pattern, name in self.paths:
            if pattern.fullmatch(path.split("?")[0]):
                return self.described["paths"][name].get(method.lower())
        return None

    def check(self, method, path, status, body):
        """Fails where a call that is described gives an answer that is not."""
        operation = self.operation(method, path)
        if operation is None:
            return
        assert str(status) in operation["responses"], f"{method} {path}: status {status} is not described"
        content = operation["responses"][str(status)].get("content", {}).get("application/json")
        if content is None:
            return
        self.validator(method, path, str(status)).validate(body)

    def validator(self, method, path, status):
        schema = self.operation(method, path)["responses"][status]["content"]["application/json"]["schema"]
        return jsonschema.Draft202012Validator({**schema, "components": self.described.get("components", {})})
