"""The mount against a plain directory: random operations on both, compared after every step.

`places` says which names and contents there are, `acts` what can be done, `looking` what is seen, `bench` mounts and
gives folders to play in, `machine` puts it together. `python -m model.soak` runs it without an end.
"""
