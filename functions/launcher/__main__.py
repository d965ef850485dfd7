"""`python -I -S functions/launcher …`: how a daemon starts its own launcher, without site-packages and their cost."""

import os
import sys

sys.path.append(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from functions.launcher.server import main

if __name__ == "__main__":
    main()
