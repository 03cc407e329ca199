"""What people read: comparisons of variants and reports of results."""
