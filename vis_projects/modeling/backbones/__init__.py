"""Trunks that several systems share, and what makes their convolutions fast at test."""
