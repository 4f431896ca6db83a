"""Long runs of other people's programs on a real mount: `make posix` (pjdfstest) and `make stress` (fio, stress-ng, dbench).

They are no part of `make test`: they need root or minutes. What they found before is kept as plain tests beside the others.
"""
