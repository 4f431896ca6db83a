"""Side-by-side runs: vfsd against the same work done without it, as ratios. `python -m benchmarks.<name>`."""
