"""The README as an index shows it: what it links to is in the repository, and not on the index."""

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface


class ReadmeOfAnIndex(MetadataHookInterface):
    """Makes relative links absolute where the project tells its `Source` among its URLs, and else text."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Give the metadata the README."""
        source = metadata.get("urls", {}).get("Source")
        link = rf"[\1]({source}/blob/HEAD/\2)" if source else r"\1"
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        text = re.sub(r"\[([^\]]*)\]\((?!https?:|#)([^)]+)\)", link, text)
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
