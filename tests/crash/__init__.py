"""vfsd killed, its disk failing, its machine without power: nothing that was answered may be lost.

`faults` makes a daemon fail or die at a chosen place; nothing of it is in the program. `workload` is what programs do
meanwhile, `expected` what must be there after a kill, `durable` after a power failure. `rounds` (with `ends`) and `power`
(with `disk`) bring them together; `forked` starts daemons without the time that imports take.
"""
