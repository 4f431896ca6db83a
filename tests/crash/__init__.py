"""vfsd killed, its disk failing, its machine without power: nothing that was answered may be lost.

`faults` makes a daemon fail or die at a chosen place; nothing of it is in the program. `workload` is what programs do
meanwhile, `expected` what must be there afterwards, `rounds` brings them together.
"""
