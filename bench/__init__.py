"""Programs that run Tidegate beside a peer in one run and print a ratio; see docs/benchmarks.md."""
