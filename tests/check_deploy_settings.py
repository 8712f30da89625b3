"""Each setting that a file of deploy gives a worker is one: tests/check-deploy calls this with the configuration's schema."""

import json
import pathlib
import re
import sys

import yaml

ROOT = pathlib.Path(__file__).parent.parent
IMAGE = re.compile(r"^agentkit-worker(:|@|$)")


def settings_of(schema):
    """All keys of the schema, each as the path of its parts."""
    found = set()

    def walk(node, path):
        if "$ref" in node:
            node = schema["$defs"][node["$ref"].rsplit("/", 1)[1]]
        for part in node.get("anyOf", []) + node.get("allOf", []) + node.get("oneOf", []):
            walk(part, path)
        for name, child in node.get("properties", {}).items():
            found.add("__".join([*path, name]).upper())
            walk(child, [*path, name])

    walk(schema, [])
    return found


def names(file):
    """The names of the environment that a file gives to containers of the worker's image, or to its unit."""
    text = file.read_text()
    if file.suffix != ".yaml":
        yield from re.findall(r"\b(?:ENV\s+)?((?:AGENTKIT_WORKER__)[A-Z0-9_]+)", text)
        return

    def walk(node):
        if isinstance(node, list):
            for child in node:
                yield from walk(child)
        elif isinstance(node, dict):
            if IMAGE.match(str(node.get("image", ""))):
                environment = node.get("environment") or node.get("env") or {}
                yield from environment if isinstance(environment, dict) else (entry["name"] for entry in environment)
            for child in node.values():
                yield from walk(child)

    for document in yaml.safe_load_all(text):
        yield from walk(document)


def main():
    schema = json.loads(pathlib.Path(sys.argv[1]).read_text())
    keys = settings_of(schema)
    # config/README.md names those that are known without the prefix.
    known = set(re.findall(r"`([A-Z][A-Z0-9_]+)`", (ROOT / "config/README.md").read_text()))
    checked, wrong = 0, []
    for file in sorted((ROOT / "deploy").rglob("*")):
        if file.suffix not in (".yaml", ".service", "") or not file.is_file():
            continue
        for name in names(file):
            checked += 1
            base = name.removesuffix("_FILE") if "__TLS__" not in name else name
            if base.removeprefix("AGENTKIT_WORKER__") not in keys and base not in known:
                wrong.append(f"{file.relative_to(ROOT)}: {name} is no setting of the worker")
    if not checked:
        wrong.append("no setting was found at all: is this looking at the right files?")
    sys.exit("\n".join(wrong) or None)


main()
