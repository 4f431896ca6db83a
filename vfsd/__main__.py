"""`python -m vfsd` is the command `vfsd`."""

import sys

from vfsd.cli import main

sys.exit(main())
