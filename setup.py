"""What pyproject.toml cannot say: on a package index, the README's links to files of the repository are absolute."""

import re
from pathlib import Path

from setuptools import setup

REPOSITORY = "https://github.com/OWNER/effbench"
"""OWNER is a placeholder until the project is published."""

ROOT = Path(__file__).parent
RELATIVE = re.compile(r"\]\((?![a-z]+:|#)([^)\s]+)\)")
"""The end of a Markdown link, or image, whose target is a path."""


def with_absolute_links(markdown: str, version: str) -> str:
    """Return a page of the repository with links to its files as they are at the tag of a version."""

    def absolute(link: "re.Match[str]") -> str:
        kind = "raw" if link[1].endswith((".svg", ".png")) else "blob"
        return f"]({REPOSITORY}/{kind}/v{version}/{link[1]})"

    return RELATIVE.sub(absolute, markdown)


if __name__ == "__main__":
    source = (ROOT / "src" / "effbench" / "__init__.py").read_text(encoding="utf-8")
    version = re.search(r'^__version__ = "([^"]+)"$', source, re.MULTILINE)
    assert version is not None
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    setup(
        long_description=with_absolute_links(readme, version[1]),
        long_description_content_type="text/markdown",
    )
