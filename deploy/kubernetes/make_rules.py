"""Writes prometheus-rule.yaml from deploy/prometheus/rules: python deploy/kubernetes/make_rules.py"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).resolve().parent
RULES = HERE.parent / "prometheus" / "rules"
MANIFEST = HERE / "prometheus-rule.yaml"
HEAD = "# Written by make_rules.py from deploy/prometheus/rules; change it there.\n"


class _Dumper(yaml.SafeDumper):
    """Text of many lines as a block, so that an expression can be read."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def manifest() -> str:
    """The PrometheusRule's text: every group of every rules file, in the files' order."""
    files = sorted(RULES.glob("*.yml"))
    groups: list[Any] = [group for file in files for group in yaml.safe_load(file.read_text())["groups"]]
    rule = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "parity", "labels": {"app": "parity"}},
        "spec": {"groups": groups},
    }
    return HEAD + yaml.dump(rule, Dumper=_Dumper, sort_keys=False, width=118, allow_unicode=True)


if __name__ == "__main__":
    MANIFEST.write_text(manifest())
