#!/usr/bin/env python3
"""Writes deploy/chart/README.md: a row for every value, out of values.yaml and its comments. A value without a comment of
its own stops this program.

    deploy/values.py >deploy/chart/README.md          `make chart-docs`; it needs PyYAML
"""

import json
import re
import sys
from pathlib import Path

import yaml

VALUES = Path(__file__).parent / "chart/values.yaml"
LINES = VALUES.read_text().split("\n")
# These repeat the keys of another part, without its comments.
TWINS = {
    **{role: "receiver" for role in ("consumer", "console", "all", "sandbox", "topics.job")},
    "metrics.serviceMonitor": "metrics.podMonitor",
}
# Objects of Kubernetes are one value each, and so is whatever stands in braces.
OBJECTS = {"pod.securityContext", "pod.containerSecurityContext"}

HEAD = """# Values of the chart `rekey`

How to install it is in [deploy/README.md](../README.md), and whole sets of values to begin with are in [examples](../examples).
`make chart-docs` writes this page out of the comments of [values.yaml](values.yaml).
"""


def paragraphs(comment):
    text = "\n".join(line.lstrip()[1:].strip() for line in comment)
    return re.sub(r"(?<!\n)\n(?!\n)", " ", text)


def comment_above(line):
    """The comment that ends right above this line (they count from 0)."""
    first = line
    while LINES[first - 1].lstrip().startswith("#"):
        first -= 1
    return paragraphs(LINES[first:line])


def rows(node, path=()):
    """(name, its node, whether it is a group, the comment), in the order of the file."""
    for key, value in node.value:
        here = path + (key.value,)
        name = ".".join(here)
        group = isinstance(value, yaml.MappingNode) and not value.flow_style and name not in OBJECTS
        yield name, value, group, comment_above(key.start_mark.line)
        if group:
            yield from rows(value, here)


def twin(name):
    return next((name.replace(one, other, 1) for one, other in TWINS.items() if name.startswith(f"{one}.")), None)


def cell(text):
    """Angle brackets are no HTML; in code they are none anyway."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(p if p.startswith("`") else p.replace("<", "\\<") for p in parts).replace("|", "\\|")


def section(title, about, lines):
    print(f"\n## {title}" + (f"\n\n{cell(about)}" if about else ""))
    print("\n| value | default | what it is |\n|---|---|---|\n" + "\n".join(lines))


def main():
    said, whole, sections = {}, [], []
    for name, node, group, comment in rows(yaml.compose(VALUES.read_text())):
        said[name] = comment = comment or said.get(twin(name), "")
        top = "." not in name
        if group and top:
            sections.append((name, comment, []))
        if group and (top or not comment):
            continue
        if not comment and name.endswith(".enabled"):
            comment = "Turns it on."
        if not comment:
            sys.exit(f"{VALUES}: {name} has no comment above it")
        default = "" if group else f"`{json.dumps(yaml.safe_load(yaml.serialize(node)), ensure_ascii=False)}`"
        (whole if top else sections[-1][2]).append(f"| `{name}` | {default} | {cell(comment)} |")
    print(HEAD)
    print(cell(paragraphs(LINES[: LINES.index("")])))
    section("Of the whole release", "", whole)
    for one in sections:
        section(*one)


if __name__ == "__main__":
    main()
