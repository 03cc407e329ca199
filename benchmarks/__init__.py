"""Speed and memory against slow references in the tree and other versions; not installed."""
