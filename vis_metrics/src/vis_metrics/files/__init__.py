"""The benchmarks' files: reading with checks, writing in one piece."""
