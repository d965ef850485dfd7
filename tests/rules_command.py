"""`tidegate rules …` as a process, the way a user types it."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples" / "rules"


def rules(*arguments: str | Path, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run `tidegate rules` with these arguments."""
    command = [sys.executable, "-m", "tidegate.main", "rules", *map(str, arguments)]
    return subprocess.run(command, input=stdin, capture_output=True, cwd=ROOT, check=False, timeout=60)
