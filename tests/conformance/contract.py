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
        answers = operation["responses"]
        answer = answers.get(str(status), answers.get(f"{status // 100}XX"))
        assert answer is not None, f"{method} {path}: status {status} is not described"
        content = answer.get("content", {}).get("application/json")
        if content is None:
            assert body is None, f"{method} {path}: a body that is not described"
            return
        schema = {**content["schema"], "components": self.described.get("components", {})}
        jsonschema.Draft202012Validator(schema).validate(body)
