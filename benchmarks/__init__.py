"""ragsocket measured beside other ways to build the same thing; see docs/benchmarks.md."""
