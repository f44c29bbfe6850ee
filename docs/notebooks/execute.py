"""Execute the notebooks of this folder on the archive of a demonstration; an error of a cell is an error.

    python docs/notebooks/execute.py ARCHIVE [--save]

Without `--save` the stored outputs stay as they are, so that building the documentation changes no file.
"""

import os
import sys
from pathlib import Path


def execute(archive: Path, save: bool) -> None:
    """Execute each notebook, with DACYCLE_ARCHIVE naming the archive; store its outputs if asked to."""
    import nbformat
    from nbclient import NotebookClient

    os.environ |= {"DACYCLE_ARCHIVE": str(archive.resolve()), "MPLBACKEND": "module://matplotlib_inline.backend_inline"}
    for file in sorted(Path(__file__).parent.glob("*.ipynb")):
        notebook = nbformat.read(file, as_version=4)
        NotebookClient(notebook, timeout=600, kernel_name="python3", record_timing=False).execute()
        if save:
            nbformat.write(notebook, file)


if __name__ == "__main__":
    execute(Path(sys.argv[1]), save="--save" in sys.argv[2:])
