"""What the tests of the whole program stand on: folders compared, daemons driven, stores read.

Nothing here imports vfsd. The tests above know only what a user knows: the commands, their exit codes and
JSON, real files, and the programs that read them. What is found in a store is found through its format.
"""
